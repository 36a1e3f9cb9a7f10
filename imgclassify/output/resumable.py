"""Writes an output file whose run can be resumed if it stops.

The file NAME appears when its run is complete. Until then, the journal NAME.partial holds the records so far.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import filterfalse
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self

from imgclassify.errors import UsageError, describe_error
from imgclassify.files import atomic_write, has_content, temp_path
from imgclassify.output.file_formats import FileFormat, open_file_format
from imgclassify.output.formats import OutputFormat
from imgclassify.output.journal import Journal, ResumeMarker
from imgclassify.output.left_out import left_out_path, load_left_out, save_left_out
from imgclassify.output.output import require_no_result
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, RecordType
from imgclassify.output.text_stream import report_io_errors
from imgclassify.results import RunInfo

if TYPE_CHECKING:
    from imgclassify.output.resume_index import ResumeIndex

_PARTIAL = ".partial"


class ResumableOutput(Generic[R]):
    """An output file whose run can be resumed; see output.Output."""

    on_terminal = False
    unseen = True

    def __init__(
        self,
        path: Path,
        output_format: OutputFormat,
        record_type: RecordType[R],
        *,
        resume: bool,
        retry_errors: bool,
        overwrite: bool,
    ) -> None:
        """
        Args:
            output_format: a resumable format.
            resume: continue with the records that are there, if there are any.
            retry_errors: with `resume`, classify the failed sources again and replace their records.
            overwrite: without `resume`, replace the file, and discard the records of a stopped run.

        Raises:
            UsageError: the file cannot be written, another process writes to it, or there are earlier records and
                neither `resume` nor `overwrite` is set.
        """
        self._name = path
        self._record_type = record_type
        self._format: FileFormat[R] = open_file_format(output_format, record_type)
        self._has_lines_of_journal = output_format.lines_of_journal and not record_type.has_vectors
        self._marker = ResumeMarker(retries=retry_errors) if resume else None
        self._index: ResumeIndex | None = None
        self._earlier: Provenance | None = None
        self._provenance: Provenance | None = None
        self._selects: Callable[[R], bool] | None = None
        self._written = self._failed = 0
        self.resumed = self.resumed_failed = 0
        if path.suffix == _PARTIAL:
            raise UsageError(
                f"{str(path)!r} is the name of a stopped run's records", hint=f"leave out the {_PARTIAL} at its end"
            )
        with report_io_errors(path):
            self._target = path.resolve()  # a link is kept, and the file that it points to is replaced
            self._format.check_target(self._target)
        self._journal = Journal(self._target.with_name(self._target.name + _PARTIAL), record_type)
        try:
            self._match_permissions(self._journal)
            if resume:
                self._load_state()
            elif not overwrite:
                self._require_no_records()
        except BaseException:
            self._journal.close()
            raise

    @property
    def unfinished(self) -> Path | None:
        """See output.Output."""
        return self._journal.path if self._journal.path.exists() else None

    @property
    def resumed_device(self) -> str | None:
        """See output.Output."""
        device = self._earlier.run.get("device") if self._earlier else None
        return device if isinstance(device, str) else None

    @property
    def count(self) -> int:
        """See output.Output."""
        return self._index.count() if self._index else self._written

    @property
    def failed(self) -> int:
        """See output.Output."""
        return self._index.count(failed=True) if self._index else self._failed

    def earlier_sources(self) -> Iterator[str]:
        """See output.Output."""
        return self._index.sources() if self._index else iter(())

    def claim_record(self, source: str) -> bool:
        """See output.Output."""
        return self._index is not None and self._index.claim(source)

    def earlier_records(self) -> Iterator[R]:
        """See output.Output."""
        if not self._earlier:
            return iter(())
        if self._journal.provenance:
            return filter(self._selects, self._iter_records())
        return filter(self._selects, self._load_complete()[1])

    def begin(
        self, run: RunInfo, settings: dict[str, int | str], selects: Callable[[R], bool] | None = None
    ) -> None:
        """See output.Output.

        Raises:
            UsageError: the records that are there are of a run with another model or other settings.
        """
        if selects:
            with report_io_errors(self._name):
                left_out_path(self._target).exists()  # raises OSError if its name is too long
        self._selects = selects
        self._provenance = Provenance.from_run(run, settings)
        if self._earlier and (differences := self._earlier.differences(self._provenance, self._record_type)):
            raise UsageError(
                f"cannot resume {str(self._name)!r}: {'; '.join(differences)}",
                hint="use the settings that the file was made with, or choose another --output",
            )
        if self._marker is None:
            # Only now, so that a run whose model cannot be loaded discards nothing.
            self._journal.clear()

    def write(self, record: R) -> bool:
        """See output.Output. A record that is left out is in the journal too, so nothing is lost."""
        if not self._written:  # prepared only when there is a record to add
            self._open_journal()
        self._journal.add(record)
        self._written += 1
        self._failed += record.error is not None
        if self._index:
            self._index.add(0, record)  # any position: only the counts of this index are used
        return self._selects is None or self._selects(record)

    def complete(self) -> None:
        """Writes the whole file, and removes the journal.

        Raises:
            UsageError: the file cannot be written. The journal is kept.
        """
        if self._journal.provenance is None:
            if self._earlier:
                return  # the file was already complete, and no record was added
            self._open_journal()
        self._journal.sync()
        provenance = self._journal.provenance
        assert provenance is not None
        with report_io_errors(self._name), atomic_write(self._target, locked=True) as draft:
            if self._is_journal:
                self._journal.copy_lines(draft)
            else:
                self._format.save(draft, provenance, filter(self._selects, self._iter_records()))
            self._format.check_target(self._target)
            # The sidecars are written before the file appears. If the process is killed in between, the journal
            # is still there and holds everything.
            self._format.save_sidecar(self._target, provenance)
            self._save_left_out()
        self._journal.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def _require_no_records(self) -> None:
        """Checks that there is neither a complete file nor the records of a stopped run."""
        if next(self._journal.entries(), None):
            raise UsageError(
                f"{str(self._journal.path)!r} holds the records of a stopped run",
                hint="add --resume to continue the run, or --overwrite to discard them and start again",
            )
        require_no_result(self._name, resumable=True)

    def _load_state(self) -> None:
        """Reads which sources already have records."""
        assert self._marker is not None
        from imgclassify.output.resume_index import ResumeIndex

        if self._journal.provenance:
            self._earlier = self._journal.provenance
            self._index = ResumeIndex(self._journal.entries())
        elif has_content(self._target):
            self._earlier, records = self._load_complete()
            self._index = ResumeIndex((0, record) for record in records)
        if self._index:
            self._index.add(0, self._marker)
            self.resumed = self._index.count(settled=True)
            self.resumed_failed = self._index.count(settled=True, failed=True)

    def _match_permissions(self, journal: Journal[R]) -> None:
        """Gives the journal the file's mode, so that only those who may read the file can read its journal."""
        with report_io_errors(self._name):
            if self._target.exists():
                mode = stat.S_IMODE(self._target.stat().st_mode)
                journal.path.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)

    def _load_complete(self) -> tuple[Provenance, Iterator[R]]:
        """Reads the complete file."""

        def checked_records() -> Iterator[R]:
            with self._report_damage():
                yield from records
                if any(name in provenance.settings for name in self._record_type.filter_settings):
                    yield from load_left_out(self._target, self._record_type)

        with self._report_damage():
            provenance, records = self._format.load(self._target)
        return provenance, checked_records()

    def _open_journal(self) -> None:
        """Prepares the journal for the records of this run."""
        assert self._provenance is not None
        if self._journal.provenance is None:
            if self._earlier:
                self._rebuild_journal()
            else:
                self._journal.begin(self._provenance)
        if self._earlier and self._marker:
            self._journal.add(self._marker)

    def _rebuild_journal(self) -> None:
        """Copies the records of the complete file to a new journal, which then replaces the empty one."""
        with report_io_errors(self._name):
            temp_path(self._target).unlink(missing_ok=True)
        copy = Journal(temp_path(self._target), self._record_type)
        try:
            self._match_permissions(copy)
            provenance, records = self._load_complete()
            copy.begin(provenance)
            for record in records:
                copy.add(record)
            copy.sync()
            copy.replace_journal(self._journal)
        except BaseException:
            copy.remove()
            raise
        self._journal = copy

    def _save_left_out(self) -> None:
        if self._selects is None:
            with suppress(OSError):  # that of a file that is replaced; without a filter, nothing reads it
                left_out_path(self._target).unlink()
        else:
            save_left_out(self._target, filterfalse(self._selects, self._iter_records()))

    @property
    def _is_journal(self) -> bool:
        """Whether the lines of the journal are those of the file: it has no records of earlier runs, which another
        version may have written, and all records belong to the output."""
        return self._has_lines_of_journal and self._index is None and self._selects is None

    def _iter_records(self) -> Iterator[R]:
        """Yields the records of the whole run in order, without those that were replaced."""
        if not (self._index and self._index.replaces):
            for _, entry in self._journal.entries():
                if not isinstance(entry, ResumeMarker):
                    yield entry
            return
        from imgclassify.output.resume_index import ResumeIndex

        positions = ResumeIndex(self._journal.entries()).positions()
        yield from self._journal.records_at(positions)

    @contextmanager
    def _report_damage(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # libraries may raise anything for a damaged file
            raise UsageError(
                f"cannot resume {str(self._name)!r}: {describe_error(error)}",
                hint="choose another --output, or replace it: --overwrite instead of --resume",
            ) from error
