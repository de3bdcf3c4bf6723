"""Where the journal ends, as its writers tell each other in the second line of the file `lock`.

It saves each of them from looking for the end after the others. It is believed only within one run of the machine,
while somebody holds the lock; whoever finds that a writer ended in the middle of a change looks for the end itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLOSED: Final = b"-"
EXCLUSIVE: Final = b"x"
OPENING: Final = b"o"
"""One writer has the store for itself, and will share it."""

SHARED: Final = b"s"
DIRTY: Final = b"d"
"""As `SHARED`, and the journal is being changed."""

_LONGEST_ID: Final = 64
_LONGEST_BOOT: Final = 40
MARK_LINE: Final = 1 + 6 * 21 + 17 + 1 + _LONGEST_BOOT + 1 + _LONGEST_ID + 1
_MODES: Final = (CLOSED, EXCLUSIVE, OPENING, SHARED, DIRTY)


@dataclass(frozen=True, slots=True)
class Mark:
    """The journal's last commit, and where it ends.

    Attributes:
        segment: the first seq of the segment that holds the commit; -1: there is no commit.
        end: the place behind it.
        inode: of the segment that the next commit goes into; 0: a new one is to be begun.
        bound: the last seq that may matter to what comes behind it: those after it were placed.
        time: of the commit, in microseconds since 1970; 0 where it is not known, and then `bound` is the end.
        history: what tells one beginning of the journal from the next, 16 hexadecimal digits.
        boot: the run of the machine in which it was said; empty where the system does not tell.
    """

    seq: int
    id: str
    segment: int
    end: int
    inode: int
    bound: int
    time: int
    history: str
    boot: str = ""

    def line(self) -> bytes:
        id = self.id.encode()
        fits = len(id) <= _LONGEST_ID and id.split() in ([], [id])
        return b"%b %020d %020d %020d %020d %020d %020d %16b %-40b %-64b\n" % (
            SHARED if fits else DIRTY,
            self.seq,
            self.segment,
            self.end,
            self.inode,
            self.bound,
            self.time,
            self.history.encode(),
            self.boot.encode()[:_LONGEST_BOOT] or b"-",
            id if fits else b"",
        )

    @staticmethod
    def nowhere(mode: bytes) -> bytes:
        """The line of a lock whose holder does not say where the journal ends."""
        return b"%b%*b\n" % (mode, MARK_LINE - 2, b"")

    @classmethod
    def parse(cls, line: bytes) -> tuple[bytes, Mark | None]:
        """How the lock is held (empty: it is not told), and the mark, if there is one."""
        mode = line[:1]
        if len(line) != MARK_LINE or line[-1:] != b"\n" or mode not in _MODES:
            return b"", None
        try:
            seq, segment, end, inode, bound, time, history, boot, *id = line[1:].decode().split()
            boot = "" if boot == "-" else boot
            place = (int(segment), int(end), int(inode))
            return mode, cls(int(seq), "".join(id), *place, int(bound), int(time), history, boot)
        except ValueError:
            return mode, None
