"""Seeds that once found something, each with what it was.

What a seed does changes with the simulation. So each of these has a test of its own
as well, or its fault is one that the simulation seeks out.
"""

REGRESSIONS: dict[int, str] = {
    232: "a journal's batch, lost by a failed flush, was trusted after a restart",
    1002: "a flush between a device's mark and its write took the mark along",
    1403: "a record that failed under an operator's command was told to nobody",
    100166: "a primary whose record had failed was older to a remote put back since",
    300034: "the same, with more sessions counted than the primary had recorded",
    117: "a first start that lost power before a device had its size was refused after",
    39: "a session lost in the last cycle of a switchover: the remote was never asked",
    60000435: "the record of a switchover failed, hosts went on, a restart found it",
    2000931: "a daemon that was stopped amid a change of roles went on with it",
    2101239: "the open journal was sealed: a commit came between two looks at points",
    2004243: "the simulation: a site that stopped beside a copy was never started",
    2015619: "the simulation: operators asked for a point that had gone meanwhile",
    2046159: "a site that had reclaimed told an older copy of a line that had ended",
    2905: "the simulation: a volume grew behind the last cut, which then lacked it",
    3916: "a device older than its state directory: the start said to change size",
    1527: "one that took over after a growth never told a receiver of before it",
    3315: "a fork was what memory had after a failed flush, and the disk had not",
    501809: "a primary of before a growth was refused, and told to change its config",
}
