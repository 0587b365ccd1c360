"""Where the files of a plan lie: recorded as the job names them, found again from where a command runs.

What the job names by a relative path is recorded relative to the folder the claiming command was started in, and where
that folder lies, relative to the output. So a project that is copied or moved as a whole finds its own files, whichever
folder a later command is started in; one whose output alone was moved finds them from the project's folder. Of several
places that exist the one with the planned content counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from promptmill.pipeline.models.catalog.adapters import is_adapter
from promptmill.pipeline.models.catalog.clips import BUILTIN_CLIPS, LOCAL, ResolvedClip
from promptmill.pipeline.models.catalog.held import lies_at
from promptmill.pipeline.models.catalog.hub import COMMIT
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.pipeline.models.catalog.versions import library_versions
from promptmill.pipeline.planning.plan import Plan
from promptmill.pipeline.prompts.held import is_planned
from promptmill.pipeline.storage.homes import at_home
from promptmill.pipeline.storage.urls import is_remote, local_path
from promptmill.schemas.origin import Lineage
from promptmill.schemas.plan import STAGED, Segment, SourceFile
from promptmill.schemas.resolved import ResolvedAdapter, ResolvedControl, ResolvedIpAdapter, ResolvedModel

Beside = TypeVar("Beside", ResolvedAdapter, ResolvedControl, ResolvedIpAdapter)


def recorded(plan: Plan, output: str | None) -> Plan:
    """As `job.json` holds it. `output` is the folder of a dataset on disk, None for one elsewhere."""
    here = Path.cwd()
    return replace(
        plan,
        models=tuple(_recorded_model(model) for model in plan.models),
        clips=tuple(replace(clip, location=_as_written(clip)) if clip.is_local else clip for clip in plan.clips),
        segments=tuple(_recorded_segment(segment, plan, here) for segment in plan.segments),
        folder=None if output is None else os.path.relpath(here, output),
        versions=library_versions(),
    )


def recorded_later(segments: Sequence[Segment], plan: Plan, output: str | None) -> list[Segment]:
    """Segments that are added to a plan that was claimed before, maybe from another folder."""
    return [_recorded_segment(segment, plan, _home(plan, output) or Path.cwd()) for segment in segments]


def found(plan: Plan, output: str | None) -> Plan:
    """The plan of a dataset with absolute paths, as workers need them that start in another folder."""
    here, home = Path.cwd(), _home(plan, output)
    bases = [here] if home is None else [home, here] if is_relative(plan.job.output.url) else [here, home]
    source = plan.job.prompts.source
    return replace(
        plan,
        models=tuple(_found_model(model, bases) for model in plan.models),
        clips=tuple(_found_clip(clip, bases) for clip in plan.clips),
        segments=tuple(
            replace(segment, files=tuple(_found_file(file, source, bases) for file in segment.files))
            for segment in plan.segments
        ),
    )


def relocated(plan: Plan, stored: Plan) -> Plan:
    """The plan of a dataset with the files that `plan` was just made from, which are known to be the same."""
    models = zip(plan.models, stored.models, strict=True)
    clips = zip(plan.clips, stored.clips, strict=True)
    files = {file.name: file for segment in plan.segments for file in segment.files}
    return replace(
        stored,
        source_lineage=_licensed(stored.source_lineage, plan.source_lineage.license),
        models=tuple(_relocated_model(ours, theirs) for ours, theirs in models),
        clips=tuple(_relocated_clip(ours, theirs) for ours, theirs in clips),
        segments=tuple(_relocated_segment(segment, files, plan.job.prompts.license) for segment in stored.segments),
    )


def is_relative(path: str) -> bool:
    return not is_remote(path) and not local_path(path).is_absolute()


def _home(plan: Plan, output: str | None) -> Path | None:
    """The folder that the paths of the plan are relative to, where a dataset on disk says it."""
    return None if output is None or plan.folder is None else Path(os.path.normpath(Path(output, plan.folder)))


def _recorded_segment(segment: Segment, plan: Plan, base: Path) -> Segment:
    source = plan.job.prompts.source
    if source is None or not is_relative(source):
        return segment
    return replace(segment, files=tuple(_recorded_file(file, base) for file in segment.files))


def _recorded_file(file: SourceFile, base: Path) -> SourceFile:
    if not _is_elsewhere(file):
        return replace(file, path=_from(base, file.path))
    near = file.folder is not None and not is_remote(file.folder)
    return replace(file, folder=_from(base, file.folder or "")) if near else file


def _from(base: Path, path: str) -> str:
    below = f"{base}{os.sep}".replace("//", "/")
    return path.removeprefix(below) if path.startswith(below) else os.path.relpath(path, base)


def _relocated_model(ours: ResolvedModel, theirs: ResolvedModel) -> ResolvedModel:
    """What is loaded is what our job names; how the dataset calls it stays."""
    known = replace(
        theirs,
        location=ours.location,
        files=ours.files,
        is_local=ours.is_local,
        offload=ours.offload,
        device_map=ours.device_map,
        mirror=ours.mirror,
        license=ours.license,
        adapters=_called(ours.adapters, theirs.adapters),
        controlnets=_called(ours.controlnets, theirs.controlnets),
        ip_adapter=next(iter(_called(_listed(ours.ip_adapter), _listed(theirs.ip_adapter))), None),
    )
    return known if ours.is_local else replace(known, path=ours.path, revision=ours.revision)


def _called(ours: tuple[Beside, ...], theirs: tuple[Beside, ...]) -> tuple[Beside, ...]:
    """Ours by the dataset's paths, which stand in its records; by their own what is built in, or of the hub."""
    if len(ours) != len(theirs):
        return ours
    pairs = zip(ours, theirs, strict=True)
    return tuple(
        replace(mine, path=other.path) if _is_place(mine) and not other.path.startswith(BUILTIN) else mine
        for mine, other in pairs
    )


def _listed(part: ResolvedIpAdapter | None) -> tuple[ResolvedIpAdapter, ...]:
    return () if part is None else (part,)


def _is_place(part: ResolvedAdapter | ResolvedControl | ResolvedIpAdapter) -> bool:
    return not part.path.startswith(BUILTIN) and (isinstance(part, ResolvedAdapter) or part.is_local)


def _relocated_clip(ours: ResolvedClip, theirs: ResolvedClip) -> ResolvedClip:
    """Of a hub model without a commit the claim says which one counts, and nothing else."""
    if ours.is_local:
        return replace(ours, path=theirs.path, revision=theirs.revision)
    return replace(ours, revision=theirs.revision if COMMIT.fullmatch(theirs.revision) else ours.revision)


def _licensed(lineage: Lineage, license: str | None) -> Lineage:
    return replace(lineage, license=license or lineage.license)


def _relocated_segment(segment: Segment, now: dict[str, SourceFile], license: str | None) -> Segment:
    if segment.lineage is not None:
        segment = replace(segment, lineage=_licensed(segment.lineage, license))
    files = (_relocated_file(file, now[file.name]) if file.name in now else file for file in segment.files)
    return segment if segment.kind == "retry" else replace(segment, files=tuple(files))


def _relocated_file(stored: SourceFile, now: SourceFile) -> SourceFile:
    if not stored.path.startswith(STAGED):
        whole = now.rows if now.rows != stored.rows else None
        return replace(stored, path=now.path, digest=now.digest, version=now.version, whole=whole)
    return stored if stored.folder is None else replace(stored, folder=now.path.rpartition("/")[0])


def _is_elsewhere(file: SourceFile) -> bool:
    return file.path.startswith(STAGED) or is_remote(file.path)


def _as_written(clip: ResolvedClip) -> str:
    return LOCAL + clip.path.removeprefix(LOCAL)


def _found_model(model: ResolvedModel, bases: Sequence[Path]) -> ResolvedModel:
    model = replace(
        model,
        adapters=tuple(_found_adapter(each, bases) for each in model.adapters),
        controlnets=tuple(_found_control(each, bases) for each in model.controlnets),
        ip_adapter=None if model.ip_adapter is None else _found_ip_adapter(model.ip_adapter, bases),
    )
    if not model.is_local or model.path.startswith(BUILTIN):
        return model
    return replace(model, location=_choose(model.path, model.location, bases, lambda path: lies_at(model, path)))


def _found_adapter(adapter: ResolvedAdapter, bases: Sequence[Path]) -> ResolvedAdapter:
    if adapter.revision is not None or adapter.path.startswith(BUILTIN):
        return adapter
    place = _choose(_file_of(adapter), adapter.location, bases, lambda path: is_adapter(adapter, path))
    return replace(adapter, location=place)


def _found_control(control: ResolvedControl, bases: Sequence[Path]) -> ResolvedControl:
    if not control.is_local or control.path.startswith(BUILTIN):
        return control
    place = _choose(control.path, control.location, bases, lambda path: lies_at(control, path))
    return replace(control, location=place)


def _found_ip_adapter(adapter: ResolvedIpAdapter, bases: Sequence[Path]) -> ResolvedIpAdapter:
    if not adapter.is_local:
        return adapter
    place = _choose(_folder_of(adapter), adapter.location, bases, lambda path: lies_at(adapter, path))
    return replace(adapter, location=place)


def _folder_of(adapter: ResolvedIpAdapter) -> str:
    """As the job names it, without the file's name."""
    return str(Path(adapter.path).parent) if adapter.path.endswith(".safetensors") else adapter.path


def _recorded_ip_adapter(adapter: ResolvedIpAdapter) -> ResolvedIpAdapter:
    return replace(adapter, location=_folder_of(adapter)) if adapter.is_local else adapter


def _recorded_model(model: ResolvedModel) -> ResolvedModel:
    """Everything local as the job names it."""
    return replace(
        model,
        location=model.path if model.is_local else model.location,
        adapters=tuple(replace(each, location=_file_of(each)) for each in model.adapters),
        controlnets=tuple(replace(each, location=each.path) if each.is_local else each for each in model.controlnets),
        ip_adapter=None if model.ip_adapter is None else _recorded_ip_adapter(model.ip_adapter),
    )


def _file_of(adapter: ResolvedAdapter) -> str:
    """As the job names it, with the file's name where that is a folder's."""
    name = Path(adapter.location).name
    whole = adapter.path.startswith(BUILTIN) or Path(adapter.path).name == name
    return adapter.path if whole else f"{adapter.path.rstrip('/')}/{name}"


def _found_clip(clip: ResolvedClip, bases: Sequence[Path]) -> ResolvedClip:
    if not clip.is_local or clip.path in BUILTIN_CLIPS:
        return clip
    written, known = (text.removeprefix(LOCAL) for text in (clip.path, clip.location))
    return replace(clip, location=LOCAL + _choose(written, known, bases, lambda path: lies_at(clip, path)))


def _found_file(file: SourceFile, source: str | None, bases: Sequence[Path]) -> SourceFile:
    if file.path.startswith(STAGED) and file.folder is not None and not is_remote(file.folder):
        return replace(file, folder=_choose(file.folder, file.folder, bases, Path.is_dir))
    if _is_elsewhere(file) or source is None:
        return file
    written = _relative_in(file, source) if Path(file.path).is_absolute() else file.path
    return replace(file, path=_choose(written, file.path, bases, lambda path: is_planned(file, path)))


def _relative_in(file: SourceFile, source: str) -> str:
    """Of a file that an older version recorded by its absolute path: as the job named it, where that was relative."""
    if is_relative(source):
        before_wildcard = re.split(r"[*?\[]", source)[0].rpartition("/")[0]
        for root in (source, before_wildcard, Path(source).parent):
            path = os.path.normpath(Path(root, file.name))
            if os.path.normpath(file.path).endswith(f"/{path}"):
                return path
    return file.path


def _choose(written: str, known: str, bases: Sequence[Path], fits: Callable[[Path], bool]) -> str:
    """The absolute path of what was `written`. `known` is where an older version found it, if that is absolute.

    Looks into files only where several places exist.
    """
    path = at_home(written)
    if path.is_absolute():
        return str(path)
    places = [*(base / path for base in bases), *([Path(known)] if Path(known).is_absolute() else [])]
    there = list({os.path.realpath(place): place for place in reversed(places) if place.exists()}.values())[::-1]
    if len(there) > 1:
        there = [place for place in there if fits(place)] or there
    return str((there or places)[0])
