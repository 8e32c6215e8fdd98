"""What every order rests on: a sync of ours is one of the kernel's."""

from __future__ import annotations

from tests.museum.exhibit import Exhibit, swap, tests

_TESTS = "unit/storage/test_kernel_is_asked.py::"
_FILES = "common/storage/files.py"
_NAMES = f"{_TESTS}test_all_that_a_primary_s_first_start_makes_has_a_durable_name"
_POINT = f"{_TESTS}test_all_that_a_point_needs_has_a_durable_name"

EXHIBITS: tuple[Exhibit, ...] = (
    Exhibit(
        "O1150",
        "nothing that is flushed is asked of the kernel",
        (
            swap(
                _FILES,
                "            os.fdatasync(self._descriptor)\n",
                "            os.fstat(self._descriptor)\n",
            ),
        ),
        tests(f"{_TESTS}test_a_datasync_is_the_kernel_s"),
        says="assert",
    ),
    Exhibit(
        "O1151",
        "no directory's names are asked of the kernel",
        (
            swap(
                _FILES,
                "                os.fsync(descriptor)\n",
                "                os.fstat(descriptor)\n",
            ),
        ),
        tests(f"{_TESTS}test_a_directory_s_names_are_the_kernel_s_too"),
        says="assert",
    ),
    Exhibit(
        "O1152",
        "a directory that was made is gone after a power cut",
        (swap(_FILES, "        self.sync_directory(parent)\n", ""),),
        tests(f"{_TESTS}test_every_directory_that_is_made_has_a_durable_name"),
        says="assert",
    ),
    Exhibit(
        "O1153",
        "the device of a first start is gone after a power cut",
        (
            swap(
                "primary_site/volume_devices.py",
                "        files.sync_directory(folder)\n",
                "        files.exists(folder)\n",
            ),
        ),
        tests(_NAMES),
        says="assert",
    ),
    Exhibit(
        "O1154",
        "the device that a remote has made is gone after a power cut",
        (
            swap(
                "remote_site/secondary_device.py",
                "    guard.sync_directory(files, str(PurePath(path).parent))\n",
                "    guard.check()\n",
            ),
        ),
        tests(_POINT),
        says="assert",
    ),
    Exhibit(
        "O1155",
        "a file that a point was written to is gone after a power cut",
        (
            swap(
                "remote_site/restoring.py",
                "        files.sync_directory(str(Path(target).absolute().parent))\n",
                "",
            ),
        ),
        tests(_POINT),
        says="assert",
    ),
)
