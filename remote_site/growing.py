"""A secondary volume that grows: its device, the record, and its points' sizes.

Synchronous; everything may block and runs in a thread. docs/internals/growing.md
walks through what a crash leaves of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.errors import DeviceError, StateMismatchError, StorageError
from common.ports import File
from common.replication.session_messages import VolumeOffer
from common.storage.extending import extend, forget_short_page
from common.storage.flush_guard import FlushGuard
from remote_site.secondary import SecondaryVolume
from remote_site.store_state import StoreState, sized


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


def begun_growth(volume: SecondaryVolume) -> int | None:
    """Return how long a device has become by a growth that was cut short, if one was.

    By the intent its record explains that length: the sender's own record had this size
    before it told of it. Of a block device its length says nothing.
    """
    size_bytes = volume.device.size()
    if volume.device.is_block_device or size_bytes == volume.offer.size_bytes:
        return None
    return size_bytes


def with_sender_sizes(state: StoreState, sent: Sequence[VolumeOffer]) -> StoreState:
    """Return the state with the sizes that volumes have come to while sent from here.

    `sent`: the volumes by the sending role's record. It has made their devices as long,
    durably, before it recorded a size. Points keep the sizes that they have; a volume
    only grows; an intent of before that a volume has outgrown is over. Pure.
    """
    sizes = {offer.volume_id: offer.size_bytes for offer in sent}
    volumes = tuple(
        replace(
            offer,
            size_bytes=max(offer.size_bytes, sizes.get(offer.volume_id, 0)),
        )
        for offer in state.volumes
    )
    if volumes == state.volumes:
        return state
    growing = tuple(
        size_bytes if size_bytes > offer.size_bytes else 0
        for size_bytes, offer in zip(
            state.growing or (0,) * len(volumes), volumes, strict=True
        )
    )
    return replace(
        state,
        volumes=volumes,
        growing=growing if any(growing) else (),
        points=tuple(sized(point, state.sizes) for point in state.points),
    )
