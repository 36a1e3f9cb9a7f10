"""An output that a stopped run can go on with: NAME appears when its run is complete; until then NAME.partial, a
journal, holds the records so far."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from imgclassify.errors import UsageError, first_line
from imgclassify.output import file_formats
from imgclassify.output.atomic import atomic_write, report_io_errors, temp_path
from imgclassify.output.journal import Journal, ResumeMarker
from imgclassify.output.provenance import Provenance
from imgclassify.results import ImageResult, RunInfo

if TYPE_CHECKING:
    from imgclassify.output.resume_index import ResumeIndex

_PARTIAL = ".partial"


class ResumableOutput:
    """See output.Output."""

    on_terminal = False

    def __init__(self, path: Path, format_name: str, *, resume: bool, retry_errors: bool) -> None:
        """
        Args:
            path: whose format is `format_name`, one of KEPT_FORMATS.
            resume: go on with the records that are there, if there are any.
            retry_errors: the failed ones among them are to be answered again; their records are replaced.

        Raises:
            UsageError: the place cannot be written, another process writes to it, or it holds the records of a
                stopped run and `resume` is False.
        """
        self._name = path
        self._form = file_formats.file_format(format_name)
        self._marker = ResumeMarker(retries=retry_errors) if resume else None
        self._index: ResumeIndex | None = None
        self._former: Provenance | None = None
        self._now: Provenance | None = None
        self._written = self._failed = 0
        self.resumed = self.resumed_failed = 0
        if path.suffix == _PARTIAL:
            raise UsageError(
                f"{str(path)!r} is the name of a stopped run's records", hint=f"leave out the {_PARTIAL} at its end"
            )
        with report_io_errors(path):
            # What a link points to is replaced, and not the link.
            self._target = path.resolve()
            self._form.check(self._target)
        self._journal = Journal(self._target.with_name(self._target.name + _PARTIAL))
        try:
            self._match_permissions(self._journal)
            self._load_state()
        except BaseException:
            self._journal.close()
            raise

    @property
    def unfinished(self) -> Path | None:
        """Where the records of a stopped run are; None where there are none."""
        return self._journal.path if self._journal.path.exists() else None

    @property
    def resumed_device(self) -> str | None:
        """See output.Output."""
        device = self._former.run.get("device") if self._former else None
        return device if isinstance(device, str) else None

    @property
    def count(self) -> int:
        """Records, all in all."""
        return self._index.count() if self._index else self._written

    @property
    def failed(self) -> int:
        """Of them, those of pictures that failed."""
        return self._index.count(failed=True) if self._index else self._failed

    def claim_record(self, source: str) -> bool:
        """Whether the output has a source's record; asked once each time that the source is named."""
        return self._index is not None and self._index.claim(source)

    def begin(self, run: RunInfo, top_k: int) -> None:
        """
        Raises:
            UsageError: the records that are there rest on something else.
        """
        self._now = Provenance.of(run, top_k)
        if self._former and (differences := self._former.differences(self._now)):
            raise UsageError(
                f"cannot go on with {str(self._name)!r}: {'; '.join(differences)}",
                hint="use the settings it was made with, or choose another --output",
            )

    def write(self, result: ImageResult) -> None:
        if not self._written:
            self._open_journal()
        self._journal.add(result)
        self._written += 1
        self._failed += result.error is not None
        if self._index:
            self._index.add(0, result)

    def complete(self) -> None:
        """Puts the output in its place. To be called when every source has its record.

        Raises:
            UsageError: it cannot be written; the records are kept.
        """
        if self._journal.provenance is None:
            if self._former:
                return  # it was complete before, and nothing has been added
            self._open_journal()
        self._journal.sync()
        assert self._journal.provenance is not None
        with report_io_errors(self._name):
            with atomic_write(self._target) as draft:
                self._form.save(draft, self._journal.provenance, self._iter_records())
                self._form.invalidate_sidecar(self._target)
            self._form.save_sidecar(self._target, self._journal.provenance)
        self._journal.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()

    def _load_state(self) -> None:
        """Finds out what is answered already."""
        if self._marker is None:
            if next(self._journal.entries(), None):
                raise UsageError(
                    f"{str(self._journal.path)!r} holds the records of a run that was stopped",
                    hint="add --resume to go on with it, or delete it to begin anew",
                )
            self._journal.clear()
            return
        from imgclassify.output.resume_index import ResumeIndex

        if self._journal.provenance:
            self._former = self._journal.provenance
            self._index = ResumeIndex(self._journal.entries())
        elif self._target.exists():
            self._former, results = self._load_complete()
            self._index = ResumeIndex((0, result) for result in results)
        if self._index:
            self._index.add(0, self._marker)
            self.resumed = self._index.count(settled=True)
            self.resumed_failed = self._index.count(settled=True, failed=True)

    def _match_permissions(self, journal: Journal) -> None:
        """Who may not read what is there should not read what will be."""
        with report_io_errors(self._name):
            if self._target.exists():
                mode = stat.S_IMODE(self._target.stat().st_mode)
                journal.path.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)

    def _load_complete(self) -> tuple[Provenance, Iterator[ImageResult]]:
        """What the complete output holds."""

        def told_results() -> Iterator[ImageResult]:
            with self._reading():
                yield from results

        with self._reading():
            provenance, results = self._form.load(self._target)
        return provenance, told_results()

    def _open_journal(self) -> None:
        """Makes the journal ready for the records of this run."""
        assert self._now is not None
        if self._journal.provenance is None:
            if self._former:
                self._rebuild_journal()
            else:
                self._journal.begin(self._now)
        if self._former and self._marker:
            self._journal.add(self._marker)

    def _rebuild_journal(self) -> None:
        """Has the records of the complete output in the journal. Until they all are, there is none."""
        with report_io_errors(self._name):
            temp_path(self._target).unlink(missing_ok=True)
        copy = Journal(temp_path(self._target))
        try:
            self._match_permissions(copy)
            provenance, results = self._load_complete()
            copy.begin(provenance)
            for result in results:
                copy.add(result)
            copy.sync()
            copy.replace_journal(self._journal)
        except BaseException:
            copy.remove()
            raise
        self._journal = copy

    def _iter_records(self) -> Iterator[ImageResult]:
        """One record a source, for each time it was named."""
        if not (self._index and self._index.replaces):
            for _, entry in self._journal.entries():
                if isinstance(entry, ImageResult):
                    yield entry
            return
        from imgclassify.output.resume_index import ResumeIndex

        positions = ResumeIndex(self._journal.entries()).positions()
        yield from self._journal.records_at(positions)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except Exception as error:  # over damaged files the libraries raise whatever they like
            raise UsageError(
                f"cannot go on with {str(self._name)!r}: {first_line(error)}",
                hint="choose another --output, or leave out --resume to replace it",
            ) from error
