"""Whether a shard's two files belong to its run and to each other, by a look at what they say of themselves.

It takes the footer of the Parquet file, a stat of the HDF5 file, and the attributes of one that is opened anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import h5py

from jobs.errors import UserError
from jobs.phrases import counted, one_line
from jobs.runs.footer import AddedFile, ShardFooter, read_facts
from jobs.runs.layout import RunLayout
from jobs.runs.maps_file import ADDITION, HDF5_ERRORS, KEY, TAR
from jobs.system_errors import reason_of

_AGAIN = "run the same `promptsg mine` again"
_ERRNO = re.compile(r"\berrno = (\d+)")  # in HDF5's messages


def refuse_unlisted(layout: RunLayout, published: Iterable[str], listed: Iterable[str]) -> None:
    """Raises UserError naming the first Parquet file whose name is not that of a shard of the run, such as a copy."""
    if unlisted := sorted(set(published).difference(listed)):
        raise UserError(unlisted_problem(layout, unlisted[0]))


def unlisted_problem(layout: RunLayout, name: str) -> str:
    """What is wrong with a Parquet file whose name is not that of a shard, and what to do."""
    path = layout.shard_metadata(name)
    try:
        held = f"; it holds the rows of the shard {read_facts(path).shard!r}"
    except UserError:
        held = ""
    return f"{path} is not in run.json{held}. Move it out of {path.parent}"


def check_metadata(path: Path, shard: str, fingerprint: str, footer: ShardFooter) -> None:
    """Raises UserError unless the footer of a Parquet file is that of its shard and its run."""
    if footer.fingerprint != fingerprint:
        raise UserError(f"{path} was made by another run; put the right file back, or delete it and {_AGAIN}")
    if footer.shard != shard:
        held = f"holds the rows of the shard {footer.shard!r}"
        raise UserError(f"{path} {held}; put the right file back, or delete it and {_AGAIN}")


def check_pair(layout: RunLayout, shard: str, fingerprint: str, footer: ShardFooter | None = None) -> ShardFooter:
    """The footer of a published shard whose two files belong together, as far as a footer and a stat tell.

    `footer` is the footer where it was read before. Raises UserError naming the file that is damaged, missing, cut or
    another shard's, and what to do.
    """
    path = layout.shard_metadata(shard)
    footer = footer or read_facts(path)
    while True:
        check_metadata(path, shard, fingerprint, footer)
        problem = _file_problem(layout, shard, footer)
        if problem is None:
            return footer
        again = read_facts(path)
        if again == footer:
            raise problem
        footer = again  # another process has just replaced both files


def open_added(
    layout: RunLayout, shard: str, footer: ShardFooter, added: AddedFile, *, cache: int | None = None
) -> h5py.File:
    """Opens the HDF5 file of maps that were added later, and compares what it says of itself with the footer.

    Raises UserError unless it is the file that the footer names.
    """
    path = layout.shard_added(shard, added.number)
    problem = _size_problem(path, added.h5_size)
    if problem is None:
        file = open_file(layout, shard, cache=cache, number=added.number)
        try:
            problem = added_problem(file, shard, footer, added.number)
            if problem is None:
                return file
        except HDF5_ERRORS as error:
            problem = f"cannot be read ({one_line(error)})"
        file.close()
    raise maps_error(layout, shard, problem, added.number)


def added_problem(file: h5py.File, shard: str, footer: ShardFooter, number: int) -> str | None:
    """How an HDF5 file of added maps says that it is another one; None where it is the right one."""
    if problem := identity_problem(file, shard, footer):
        return problem
    if file.attrs.get(ADDITION) != number:
        return "holds the maps of another addition"
    if (rows := len(file[KEY])) == footer.images:
        return None
    return f"has {counted(rows, 'row')}, {footer.images} were written"


def open_maps(layout: RunLayout, shard: str, footer: ShardFooter, *, cache: int | None = None) -> h5py.File:
    """Opens a shard's HDF5 file, whose size is right, and compares what it says of itself with its footer.

    `cache` is as in `open_file`. Raises UserError unless the two were written together.
    """
    file = open_file(layout, shard, cache=cache)
    try:
        problem = identity_problem(file, shard, footer)
        if problem is None and len(file[KEY]) != footer.images:
            problem = f"has {counted(len(file[KEY]), 'row')}, {footer.images} were written"
    except HDF5_ERRORS as error:
        problem = f"cannot be read ({one_line(error)})"
    if problem:
        file.close()
        raise maps_error(layout, shard, problem)
    return file


def open_file(layout: RunLayout, shard: str, *, cache: int | None = None, number: int | None = None) -> h5py.File:
    """Opens a shard's HDF5 file for reading. Raises UserError naming it where that fails.

    `cache` is the size of the cache of chunks in bytes, by default as h5py has it. With a `number` the file is that of
    an addition.
    """
    options = {} if cache is None else {"rdcc_nbytes": cache}
    try:
        # Published files never change, so no lock is needed; locks fail on NFS and Lustre.
        return h5py.File(maps_path(layout, shard, number), "r", locking=False, **options)
    except HDF5_ERRORS as error:
        raise unreadable(layout, shard, error, number) from error


def maps_path(layout: RunLayout, shard: str, number: int | None) -> Path:
    """The HDF5 file of a shard, or with a `number` that of an addition."""
    return layout.shard_maps(shard) if number is None else layout.shard_added(shard, number)


def unreadable(layout: RunLayout, shard: str, error: Exception, number: int | None = None) -> UserError:
    """The error for a shard's HDF5 file that HDF5 cannot read, and what to do."""
    if cause := _ERRNO.search(str(error)):  # the system could not read it, which says nothing of what is in it
        return UserError(f"{maps_path(layout, shard, number)}: {reason_of(OSError(int(cause[1]), ''))}")
    return maps_error(layout, shard, f"cannot be read ({one_line(error)})", number)


def maps_error(layout: RunLayout, shard: str, problem: str, number: int | None = None) -> UserError:
    """The error for a shard's HDF5 file, or that of an addition, and what to do."""
    again = _AGAIN if number is None else f"{_AGAIN}, then the one with --add-maps"
    return UserError(
        f"{maps_path(layout, shard, number)} {problem}; put the right file back, or delete "
        f"{layout.shard_metadata(shard)} and {again}"
    )


def _file_problem(layout: RunLayout, shard: str, footer: ShardFooter) -> UserError | None:
    """The error for the first HDF5 file that the footer names and that is not there, or has another size."""
    if problem := _size_problem(layout.shard_maps(shard), footer.h5_size):
        return maps_error(layout, shard, problem)
    for file in footer.added:
        if problem := _size_problem(layout.shard_added(shard, file.number), file.h5_size):
            return maps_error(layout, shard, problem, file.number)
    return None


def _size_problem(path: Path, written: int) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if size == written else f"has {size:,} bytes, {written:,} were written"


def identity_problem(file: h5py.File, shard: str, footer: ShardFooter) -> str | None:
    """How an HDF5 file says that it is another shard's or another run's; None where it is the right one."""
    if file.attrs["shard"] != shard:
        return f"holds the maps of the shard {str(file.attrs['shard'])!r}"
    if file.attrs["fingerprint"] != footer.fingerprint:
        return "was made by another run"
    # The same request may have been mined from other tars of the same size.
    if footer.tar is not None and file.attrs.get(TAR, footer.tar.sha256) != footer.tar.sha256:
        return "was mined from another tar than its metadata"
    return None
