"""What a group's config says of the role that its site does not begin with.

Pure. A primary's group can be received, after a failback or a switchover; a remote's
group can be sent, after a takeover. Either file has what is needed for both.
"""

from __future__ import annotations

from common.service.config_link import LinkTable
from common.service.config_primary import PrimaryGroup, PrimaryVolume
from common.service.config_remote import RemoteGroup, RemoteVolume


def receiving_group(group: PrimaryGroup) -> RemoteGroup:
    """Return a primary's group as one that it receives, from the site it sent to."""
    return RemoteGroup(
        name=group.name,
        peer=group.link.peer,
        link=group.link,
        flashcopy=group.flashcopy,
        journal=group.journal,
        volume=tuple(
            RemoteVolume(name=volume.name, device=volume.device)
            for volume in group.volumes
        ),
    )


def sending_group(group: RemoteGroup) -> PrimaryGroup:
    """Return a remote's group as one that it sends, to the site it received from.

    Its cycles keep the default RPO. Without a link it reaches nobody. Volumes have the
    size and the tracks that their state says, not what a config says.
    """
    return PrimaryGroup(
        name=group.name,
        link=group.link or _no_link(group.peer),
        flashcopy=group.flashcopy,
        journal=group.journal,
        volume=tuple(
            PrimaryVolume(name=volume.name, device=volume.device)
            for volume in group.volumes
        ),
    )


def _no_link(peer: str) -> LinkTable:
    """Return a link that reaches nobody: names below `invalid` never exist."""
    return LinkTable.model_validate(
        {
            "remotes": ["no-group-link-in-the-config.invalid:1"],
            "peer": peer,
            "allow_plaintext_replication": True,
        }
    )
