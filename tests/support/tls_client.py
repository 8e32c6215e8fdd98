"""`NbdClient` over TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from common.nbd.protocol import Info, Option, WireForm
from tests.support.nbd_client import NbdClient


async def start_tls(address: str, folder: Path) -> NbdClient:
    """Return a client that has just encrypted, with the certificates of a folder."""
    client = await NbdClient.connect_unnegotiated(address.replace("tls:", "tcp:", 1))
    await client.option(Option.STARTTLS)
    await encrypt(client, folder)
    return client


async def encrypt(client: NbdClient, folder: Path) -> None:
    """Begin TLS, which the server has agreed to."""
    context = ssl.create_default_context(cafile=str(folder / "ca-cert.pem"))
    context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    assert client._transport is not None
    client._transport = await asyncio.get_running_loop().start_tls(
        client._transport, client, context, server_hostname="localhost"
    )


async def connect_tls(address: str, folder: Path, export: str) -> NbdClient:
    """Shake hands and start transmission, with structured replies."""
    client = await start_tls(address, folder)
    await client.agree(WireForm.STRUCTURED)
    await client.go(export, [Info.BLOCK_SIZE])
    client.transmit()
    return client
