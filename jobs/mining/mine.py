"""Mining: starts a run or continues one, and says what was done and what the run has then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.launch.drain import Drain
from jobs.launch.environment import Environment
from jobs.launch.placement import idle_because, refuse_overwrite_by_many
from jobs.launch.ranks import Counter, Ranks
from jobs.leftovers import remove_leftovers
from jobs.mining.blocks import block_of_element
from jobs.mining.config import MineConfig, MineOptions
from jobs.mining.family_maps import with_maps
from jobs.mining.growth.first_try import FirstTry, refuse_first_images, shards_for_a_first_try
from jobs.mining.growth.pending_additions import PendingAdditions, config_of_addition, find_addition
from jobs.mining.passes.wish import CompileWish
from jobs.mining.pending import PendingShards
from jobs.mining.request import refuse_wrong_mining, request_of
from jobs.mining.summary import MiningSummary
from jobs.mining.telling.shard_lines import Tally
from jobs.phrases import counted, first_few
from jobs.processes import available_cores
from jobs.progress import Progress, loading_torch
from jobs.runs.growth.run_json import add_addition, add_shards
from jobs.runs.integrity.footers import refuse_damaged_pairs
from jobs.runs.layout import RunLayout
from jobs.runs.manifest import Manifest, create_manifest, read_manifest, refuse_orphans, refuse_other
from jobs.runs.presence.presence import AT_LIMIT, Presence
from jobs.runs.presence.worker_lines import WorkerPlace
from jobs.runs.request import Addition, RunRequest
from jobs.runs.restart import discard_run, refuse_changed
from jobs.shards.samples import split_of
from jobs.shards.urls import Shard, expand_shards

if TYPE_CHECKING:
    from jobs.mining.model import LoadedModel

logger = logging.getLogger(__name__)

_RECORDED_PACKAGES = ("promptsg-attention", "torch", "torchvision", "h5py", "pyarrow", "numpy")


def mine(
    config: MineConfig,
    options: MineOptions = MineOptions(),  # noqa: B008 - it is frozen
    *,
    before_leaving: Callable[[MiningSummary], None] | None = None,
) -> MiningSummary:
    """Mines the shards of this process's block that are not done yet. Returns what was done.

    `before_leaving` gets the summary before this process leaves the other ranks of its task: a rank that leaves last
    may end the others, and what it prints must be out by then.

    Raises UserError, ModelError or CamError, before anything is written, where the request cannot be met. Raises
    UserError where the ranks of a task lose each other.
    """
    if options.conflict is not None:
        raise UserError(options.conflict)
    refuse_wrong_mining(config, options.add_maps)
    presence = Presence(RunLayout(config.output).logs, _place_of(options.environment))
    with Ranks(options.environment) as ranks:
        with presence.once_begun():
            summary = (_add_to_block if options.add_maps else _mine_block)(config, options, ranks, presence)
        if before_leaving is not None:
            before_leaving(summary)
        return replace(summary, exit_status=ranks.leave(summary.own_status))


def _mine_block(config: MineConfig, options: MineOptions, counter: Counter, presence: Presence) -> MiningSummary:
    """All of `mine` but what concerns the other ranks; `counter` divides the block among them."""
    started = time.monotonic()
    shards = expand_shards(config.shards)
    layout = RunLayout(config.output)
    before = _run_that_goes_on(layout, options)
    config = with_maps(config, before)
    request = request_of(config, shards, options.overrides)
    if before is not None:
        _refuse_other_request(layout, before, request, options)
    block = _block_of_this_process(shards, options.environment)
    if options.limit is not None:
        block = shards_for_a_first_try(block)
    pending = PendingShards(block, layout, retry_failed=options.retry_failed)
    if before is not None:
        done = layout.done()
        refuse_damaged_pairs(layout, before.fingerprint, [shard.name for shard in block if shard.name in done])
    todo = block if options.overwrite else pending.listed()
    first_try = FirstTry.of(layout, before, block, options)
    if not todo or first_try.is_over:
        for folder in (layout.root, layout.maps, layout.metadata):
            remove_leftovers(folder)
        already = len(block) - len(todo)
        return MiningSummary(run=layout.root, done=already, total=len(block), nothing_to_do=True, limit=options.limit)
    if before is not None:
        _be_seen(presence, layout)
    loaded = _load(config, options, shards, layout, before)
    _tell_if_shared(loaded, options, counter)
    if before is not None and options.extend:
        add_shards(layout, before, request.shards)
    deleted = _delete_run(layout) if options.overwrite else ()
    manifest = create_manifest(
        layout,
        request,
        loaded.resolved,
        checkpoint=str(config.checkpoint),
        device=loaded.kind,
        versions=_versions(),
        retry_failed=options.retry_failed,
        label_agreement=loaded.label_agreement,
    )
    loaded = loaded.of_run(manifest)
    logger.info("%s to do on %s in %s; %s", counted(len(todo), "shard"), loaded.device, manifest.resolved.precision,
                ", ".join(config.maps))  # fmt: skip
    progress = Progress(None if first_try.left else _bytes_of(todo, options.environment.world_size))
    tally = Tally(counter, len(todo))
    summary = _run_worker(
        loaded,
        manifest,
        config,
        options,
        block,
        pending.drawn(counter),
        progress,
        tally,
        presence,
        limit=first_try.left,
    )
    done = layout.done()
    return replace(
        summary,
        run=layout.root,
        done=sum(shard.name in done for shard in block),
        total=len(block),
        limit=options.limit,
        has_queries={"query", "gallery"} <= {split_of(shard.name) for shard in shards},
        deleted=deleted,
        seconds=time.monotonic() - started,
    )


def _add_to_block(config: MineConfig, options: MineOptions, counter: Counter, presence: Presence) -> MiningSummary:
    """Adds maps to the shards of this process's block that are done."""
    started = time.monotonic()
    layout = RunLayout(config.output)
    run, shards = read_manifest(layout), expand_shards(config.shards)
    refuse_first_images(layout)
    config = with_maps(config, run)
    request = request_of(config, shards, options.overrides)
    _refuse_other_request(layout, run, request, replace(options, retry_failed=False))  # no shard is mined again
    number, maps = find_addition(layout, run, options.add_maps)
    block = _block_of_this_process(shards, options.environment)
    done = layout.done()
    refuse_damaged_pairs(layout, run.fingerprint, [shard.name for shard in block if shard.name in done])
    pending = PendingAdditions(block, layout, number, retry_failed=options.retry_failed)
    if undone := pending.not_mined():
        logger.warning("%s are not done and get no maps: mine them, then give the same command again: %s",
                       counted(len(undone), "shard"), first_few(undone))  # fmt: skip
    summary = MiningSummary(run=layout.root, total=len(block), added_maps=maps, not_mined=len(undone))
    if not (todo := pending.listed()):
        for folder in (layout.root, layout.metadata, *layout.added_folders()):
            remove_leftovers(folder)
        return replace(summary, done=len(block) - len(undone), nothing_to_do=True)
    config = config_of_addition(config, maps)
    _be_seen(presence, layout)
    loaded = _load(config, options, shards, layout, run)
    _tell_if_shared(loaded, options, counter)
    refuse_other(layout, run, request, loaded.resolved)
    number, run = add_addition(layout, run, Addition(maps=maps, device=loaded.kind, versions=_versions()))
    remove_leftovers(layout.metadata)
    logger.info(
        "%s to get %s on %s in %s", counted(len(todo), "shard"), ", ".join(maps), loaded.device, run.resolved.precision
    )
    pending = PendingAdditions(block, layout, number, retry_failed=options.retry_failed)
    progress = Progress(_bytes_of(todo, options.environment.world_size))
    tally, drawn = Tally(counter, len(todo)), pending.drawn(counter)
    found = _run_worker(
        loaded.of_run(run), run, config, options, block, drawn, progress, tally, presence, addition=number
    )
    return replace(
        found,
        run=layout.root,
        done=pending.count_with_maps(),
        total=len(block),
        added_maps=maps,
        not_mined=len(pending.not_mined()),
        seconds=time.monotonic() - started,
    )


def _load(
    config: MineConfig, options: MineOptions, shards: Sequence[Shard], layout: RunLayout, before: Manifest | None
) -> LoadedModel:
    """The model, in the precision of the run that goes on, if any."""
    with loading_torch():
        from jobs.mining.model import load

    loaded = load(config, options.overrides, shards, options.environment, before)
    if before is not None or options.overwrite or not layout.manifest.exists():
        return loaded
    now = read_manifest(layout)
    if now.resolved.precision != loaded.resolved.precision:
        # A node of another kind has started the run while this one was loading.
        loaded = load(config, options.overrides, shards, options.environment, now)
    return loaded


def _tell_if_shared(loaded: LoadedModel, options: MineOptions, counter: Counter) -> None:
    from jobs.mining.limits.shared_gpu import tell_if_shared  # which imports torch

    tell_if_shared(loaded.device, options.environment, counter)


def _run_that_goes_on(layout: RunLayout, options: MineOptions) -> Manifest | None:
    """The run in the folder, if there is one and it is not to be deleted.

    Raises UserError where several processes would overwrite it.
    """
    if options.overwrite:
        refuse_overwrite_by_many(options.environment)
        return None
    if not layout.manifest.exists():
        refuse_orphans(layout)
        return None
    return read_manifest(layout)


def _refuse_other_request(layout: RunLayout, earlier: Manifest, request: RunRequest, options: MineOptions) -> None:
    """Raises UserError where the run in the folder is another one, or its shards have changed."""
    refuse_other(layout, earlier, request, retry_failed=options.retry_failed, extend=options.extend)
    now = [recorded.shard for recorded in request.shards]
    refuse_changed(layout, earlier.shards, now, retry_failed=options.retry_failed)


def _block_of_this_process(shards: Sequence[Shard], environment: Environment) -> list[Shard]:
    """The shards of this process's element of the job array."""
    block = block_of_element(shards, environment.array_index, environment.array_count)
    if idle := idle_because(environment, len(block)):
        logger.info(idle)
    return block


def _delete_run(layout: RunLayout) -> tuple[str, ...]:
    """Deletes the run that is there. Returns what was deleted; each entry is logged before it is deleted."""
    deleted: list[str] = []

    def tell(what: str) -> None:
        logger.info("overwriting: deleting %s", what)
        deleted.append(what)

    discard_run(layout, tell)
    return tuple(deleted)


def _bytes_of(shards: Sequence[Shard], ranks: int) -> int | None:
    """The bytes of the shards that one of `ranks` equal ranks will read; None if a size is not known."""
    sizes = [shard.size for shard in shards if shard.size is not None]
    return sum(sizes) // ranks if len(sizes) == len(shards) else None


def _run_worker(
    loaded: LoadedModel,
    manifest: Manifest,
    config: MineConfig,
    options: MineOptions,
    block: Sequence[Shard],
    drawn: Iterable[Shard],
    progress: Progress,
    tally: Tally,
    presence: Presence,
    addition: int | None = None,
    limit: int | None = None,
) -> MiningSummary:
    """Mines shards drawn of a block, or those that get the maps of an `addition`, watching for requests to stop.

    It stops after `limit` images.
    """
    from jobs.mining.limits.batch_size import with_batch_size
    from jobs.mining.worker import Worker
    from jobs.shards.decoding import default_workers

    environment = options.environment
    workers = config.workers
    if workers is None:
        workers = default_workers(loaded.device.type, environment.ranks_sharing(available_cores()))
    presence.begin()
    with Drain(options.drain_file, environment.deadline) as drain, progress:
        worker = Worker(
            loaded.model,
            with_batch_size(config, loaded.model, loaded.targets, loaded.cameras),
            manifest,
            loaded.targets,
            loaded.cameras,
            progress=progress,
            drain=drain,
            replace=options.retry_failed,
            repeats=loaded.fp32_repeats(manifest),
            addition=addition,
            tally=tally,
            compiling=CompileWish.for_bytes(options.compile, _bytes_of(block, environment.world_size)),
            limit=limit,
        )
        summary = worker.run(drawn, workers, environment.local_world_size)
        is_left = bool(PendingShards(block, RunLayout(config.output)).listed())
        met_limit = is_left and limit is not None and summary.rows >= limit
        if summary.drained is not None:
            presence.how = f"stopped on {summary.drained}"
        elif met_limit:
            presence.how = f"{AT_LIMIT} of {options.limit}"
        return replace(summary, met_limit=met_limit)


def _be_seen(presence: Presence, layout: RunLayout) -> None:
    """Before the model of a run that goes on is loaded, which takes long: who looks must not start a second `mine`."""
    if layout.logs.is_dir():  # a copy may lack it; it is made with the run otherwise
        presence.begin()


def _place_of(environment: Environment) -> WorkerPlace:
    return WorkerPlace(
        rank=environment.rank,
        ranks=environment.world_size,
        array_index=environment.array_index,
        array_count=environment.array_count,
    )


def _versions() -> dict[str, str]:
    """The versions of the packages that results depend on, for run.json."""
    return {package: _version_of(package) for package in _RECORDED_PACKAGES}


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"
