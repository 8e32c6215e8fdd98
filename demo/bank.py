"""The application of the demo: a bank whose transaction n is a function of n.

So a copy can be judged without asking the bank: whoever reads N transactions
knows what each must say and what every account must hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import apsw

DATABASE: Final = "bank"
JOURNAL: Final = "bank-journal"
"""SQLite's names for the two files."""

ACCOUNTS: Final = 1000
OPENING_BALANCE: Final = 1_000_000
AMOUNT_MAX: Final = 500
MEMO_BYTES: Final = 6000
"""Pads a transaction to more than a page, so that cycles have something to do."""

SCHEMA: Final = """
CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE ledger (
    n INTEGER PRIMARY KEY, payer INTEGER NOT NULL, payee INTEGER NOT NULL,
    amount INTEGER NOT NULL, memo BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Transaction `n`, 1-based."""

    n: int
    payer: int
    payee: int
    amount: int
    memo: bytes

    @classmethod
    def of(cls, n: int) -> Transfer:
        stream = hashlib.shake_128(n.to_bytes(8, "big")).digest(6 + MEMO_BYTES)
        payer, payee, amount = (
            int.from_bytes(stream[at : at + 2], "big") for at in (0, 2, 4)
        )
        return cls(
            n, payer % ACCOUNTS, payee % ACCOUNTS, amount % AMOUNT_MAX, stream[6:]
        )


class Bank:
    """Commits transfers from a thread until its storage fails or `stop`.

    `commits[n - 1]` is the monotonic time at which COMMIT of transaction n had
    returned: from then on the bank has promised it to its customers.
    """

    def __init__(self, vfs: str) -> None:
        self.commits: list[float] = []
        self.begun = 0
        self.failure: Exception | None = None
        self._stop = threading.Event()
        self._connection = apsw.Connection(DATABASE, vfs=vfs)
        self._thread = threading.Thread(target=self._run, name="bank", daemon=True)

    def open(self) -> None:
        """Create the tables and accounts, durably; must come before `start`."""
        for statement in (
            "PRAGMA page_size = 4096",
            "PRAGMA journal_mode = PERSIST",
            "PRAGMA synchronous = FULL",
            "PRAGMA temp_store = MEMORY",
        ):
            self._connection.execute(statement).fetchall()
        with self._connection:
            self._connection.execute(SCHEMA)
            self._connection.executemany(
                "INSERT INTO account VALUES (?, ?)",
                ((number, OPENING_BALANCE) for number in range(ACCOUNTS)),
            )

    def transfer(self) -> None:
        """Commit the next transfer: return once it is durable."""
        self.begun += 1
        self._commit(Transfer.of(self.begun))
        self.commits.append(time.monotonic())

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return once the thread has ended, its last transaction with it."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        # Its storage may be gone: that is the disaster, and expected.
        with contextlib.suppress(apsw.Error, OSError):
            self._connection.close(True)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.transfer()
        except (apsw.Error, OSError) as error:
            self.failure = error

    def _commit(self, transfer: Transfer) -> None:
        with self._connection:
            for change, account in (
                (-transfer.amount, transfer.payer),
                (transfer.amount, transfer.payee),
            ):
                self._connection.execute(
                    "UPDATE account SET balance = balance + ? WHERE id = ?",
                    (change, account),
                )
            self._connection.execute(
                "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)",
                (
                    transfer.n,
                    transfer.payer,
                    transfer.payee,
                    transfer.amount,
                    transfer.memo,
                ),
            )


def integrity(database: sqlite3.Connection) -> str:
    """Return "ok", or what SQLite's own check complains of first."""
    (answer,) = database.execute("PRAGMA integrity_check").fetchone()
    return str(answer)


def prefix_held(database: sqlite3.Connection) -> int | str:
    """Return N if the copy holds exactly transactions 1 to N, else what is wrong."""
    balances = [OPENING_BALANCE] * ACCOUNTS
    count = 0
    for found in _ledger(database):
        count += 1
        expected = Transfer.of(count)
        if found.n != count:
            return f"transaction {count} is missing, {found.n} is there"
        if found != expected:
            return f"transaction {count} is not what the bank wrote"
        balances[expected.payer] -= expected.amount
        balances[expected.payee] += expected.amount
    held = database.execute("SELECT balance FROM account ORDER BY id").fetchall()
    if [balance for (balance,) in held] != balances:
        return f"the balances are not those after transaction {count}"
    return count


def _ledger(database: sqlite3.Connection) -> Iterator[Transfer]:
    rows = database.execute(
        "SELECT n, payer, payee, amount, memo FROM ledger ORDER BY n"
    )
    for row in rows:
        yield Transfer(*row)
