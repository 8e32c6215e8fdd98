"""The end of a block device that lay within a page, after the device has grown."""

from __future__ import annotations

import mmap
from typing import Any, cast

import pytest

from common.errors import DeviceError
from common.ports import File
from common.storage.extending import check_extendable, extend, forget_short_page

PAGE_BYTES = mmap.PAGESIZE
OLD = 3 * PAGE_BYTES + 1536
BEHIND = b"behind the old end".ljust(PAGE_BYTES, b"!")


class EnlargedDevice:
    """A block device that has grown, as Linux shows it: it goes on showing zeroes
    where its last page ended, until that page is dropped; one in use is not."""

    path = "/dev/enlarged"

    def __init__(self, size: int, *, block: bool = True) -> None:
        self.is_block_device = block
        self._size = size
        self.page_in_memory = True
        self.is_page_written = False
        self.drops = 0

    def size(self) -> int:
        return self._size

    def truncate(self, size: int) -> None:
        assert not self.is_block_device
        self._size = size

    def drop_cache(self) -> None:
        self.drops += 1
        if not self.is_page_written:
            self.page_in_memory = False

    def try_read(self, offset: int, length: int) -> bytes | None:
        assert offset >= OLD
        assert offset + length <= min(self._size, 4 * PAGE_BYTES)
        return bytes(length) if self.page_in_memory else None

    def read(self, offset: int, length: int) -> bytes:
        at = offset - OLD
        shown = self.try_read(offset, length)
        return BEHIND[at : at + length] if shown is None else shown


def port(device: EnlargedDevice) -> File:
    return cast("File", cast("Any", device))


@pytest.mark.parametrize("more", [512, 1024, PAGE_BYTES, 1 << 20])
def test_what_lies_behind_the_old_end_is_read_from_the_disk(more: int) -> None:
    device = EnlargedDevice(OLD + more)
    shown = min(more, PAGE_BYTES - 1536)
    assert device.read(OLD, shown) == bytes(shown), "what Linux shows at first"
    assert forget_short_page(port(device), OLD, OLD + more)
    assert device.read(OLD, shown) == BEHIND[:shown]


def test_a_page_that_is_being_written_is_to_be_tried_again() -> None:
    device = EnlargedDevice(OLD + 4096)
    device.is_page_written = True
    assert not forget_short_page(port(device), OLD, OLD + 4096)
    device.is_page_written = False  # by an fdatasync
    assert forget_short_page(port(device), OLD, OLD + 4096)


def test_nothing_is_dropped_without_need() -> None:
    whole = EnlargedDevice(5 * PAGE_BYTES)
    assert forget_short_page(port(whole), 4 * PAGE_BYTES, 5 * PAGE_BYTES)
    file = EnlargedDevice(OLD + 4096, block=False)
    assert forget_short_page(port(file), OLD, OLD + 4096)
    assert whole.drops == file.drops == 0


def test_a_file_is_extended_and_a_block_device_has_to_be_long_enough() -> None:
    file = EnlargedDevice(OLD, block=False)
    extend(port(file), OLD + 512)
    assert file.size() == OLD + 512
    extend(port(file), OLD)
    assert file.size() == OLD + 512, "never shorter"
    check_extendable(port(EnlargedDevice(OLD + 512)), OLD + 512)
    extend(port(EnlargedDevice(OLD + 512)), OLD + 512)
    with pytest.raises(DeviceError, match=f"at least {OLD + 1024} first"):
        extend(port(EnlargedDevice(OLD + 512)), OLD + 1024)
