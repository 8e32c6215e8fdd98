"""A secondary volume that grows: its device, the record, and its points' sizes.

Synchronous; everything may block and runs in a thread. docs/internals/growing.md
walks through what a crash leaves of it.
"""

from __future__ import annotations

from common.errors import DeviceError, StateMismatchError, StorageError
from common.ports import File
from common.storage.extending import extend, forget_short_page
from common.storage.flush_guard import FlushGuard
from remote_site.store_state import StoreState


def check_growth(
    state: StoreState, index: int, from_bytes: int, size_bytes: int, record_path: str
) -> bool:
    """Tell whether a volume is still to grow; False if it has that size already.

    Raises `StateMismatchError` unless the sender's volume has had the size that this
    one has: a larger volume that never was this one's is another volume.
    """
    offer = state.volumes[index]
    if offer.size_bytes == size_bytes:
        return False
    if from_bytes <= offer.size_bytes < size_bytes:
        return True
    raise StateMismatchError(
        f"{record_path}: volume {state.group}/{offer.name} has {offer.size_bytes} "
        f"bytes, the sender's has grown from {from_bytes} to {size_bytes}: one of the "
        "two sites runs with an older or another state directory; put the right one "
        "back"
    )


def extend_device(
    device: File, before_bytes: int, size_bytes: int, guard: FlushGuard, volume: str
) -> None:
    """Make a device long enough for its volume, durably.

    A file is extended sparse. Raises `DeviceError` for whoever has to make room:
    hosts go on, and the newest point stays as it is, until the sender asks again.
    """
    try:
        extend(device, size_bytes)
    except (DeviceError, StorageError) as error:
        raise DeviceError(
            f"volume {volume} has grown to {size_bytes} bytes, but the remote's device "
            f"can't: {error}"
        ) from error
    guard.datasync(device)
    forget_short_page(device, before_bytes, size_bytes)  # nobody writes between cycles
