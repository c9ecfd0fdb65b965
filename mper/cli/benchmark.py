"""``mper benchmark``: compare methods with few labels, resumable, with tables and figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli.cluster import MPER, add_cluster, cluster_settings, submit, wait_for
from mper.cli.console import Bar, print_error, print_message, print_note, print_result
from mper.cli.options import Commands, add_command, add_device, count, names, number, out_folder, seconds, size
from mper.methods.recipe import RECIPES
from mper.methods.registry import AUTO, METHODS, benchmark_methods
from mper.nets.registry import backbone_names
from mper.progress import Cancelled, Progress
from mper.utils.errors import FAILED, OK, UsageError

if TYPE_CHECKING:
    from mper.benchmark.plan import Benchmark, Cohort
    from mper.cluster.settings import ClusterSettings

_TEXT = """\
Train and evaluate every method with every number of labels and every seed, and write tables and figures into a
folder: results.md, results.csv, cases.csv, results.png, and of each number of labels cases-N.png and surfaces-N.png.

The state at the end of each run counts; nothing is chosen on the cases that are evaluated. For `la` these are the split
dev, or, where there is none, the last 8 cases of the split train (73 to 80 of the public list), which are not trained
on then; for `acdc` the split val. --labeled counts scans for `la`, patients (of two stacks each) for `acdc`.

It can be stopped at any time (Ctrl-C, --for, a machine that goes away): the same command goes on where it stopped. More
--labeled, --methods and --seeds may be asked for later; all else must stay. It needs no more than training does, so
it runs from packed data (`mper pack`) on a machine that has little more than torch.
"""
_EXAMPLES = """\
  mper benchmark la --data dataset --labeled 8,4 --methods mper,bcp,supervised --budget 10m --out results
  mper benchmark acdc --data packed --labeled 7,3 --seeds 3 --device cuda --for 9m --out results
  mper benchmark la --data dataset --labeled 8 --methods mper,mper:no-cutmix,mper:k=1 --steps 3000 --out results
  mper benchmark la --data dataset --labeled 8 --ablation --budget 10m --out ablation
  mper benchmark la --data dataset --seeds 3 --cluster slurm --partition gpu --gpus 1 --time 4h --out results
  mper benchmark la --data dataset --labeled 8 --from la-8 --budget 5m --out fine-tuned
  mper benchmark la --smoke --out smoke
"""
_TASKS = ("la", "acdc")
_SMOKE = {"labeled": (2,), "seeds": 2, "steps": 3, "batch": 2}


def add(commands: Commands) -> None:
    command = add_command(commands, "benchmark", "compare methods with few labels", _TEXT, _EXAMPLES)
    command.add_argument("task", choices=_TASKS, help="la: left atrium; acdc: ventricles and heart muscle")
    command.add_argument(
        "--out", type=out_folder, required=True, metavar="DIR", help="the benchmark's folder, new or begun"
    )
    data = command.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, metavar="DATASET", help="a dataset folder, or a packed one")
    data.add_argument(
        "--smoke", action="store_true", help="synthetic data and a few steps: shows in a minute that everything works"
    )
    command.add_argument(
        "--split", metavar="NAME", help="the cases to evaluate on; all of the split train is trained on"
    )
    what = command.add_argument_group("which runs")
    what.add_argument("--labeled", type=_counts, metavar="N,N", help="numbers of labels (default: 4,8,16 or 3,7)")
    what.add_argument(
        "--methods",
        type=names,
        metavar="A,B",
        help=f"methods, or variants of them as mper:no-cutmix and mper:k=5 (default: {','.join(benchmark_methods())})",
    )
    what.add_argument(
        "--ablation", action="store_true", help="all variants of mper: classifiers, prototypes, changes of the recipe"
    )
    what.add_argument("--seeds", type=count, metavar="N", help="each with seeds 0 to N-1 (default: 3)")
    how = command.add_argument_group("each run (as in `mper train`)")
    how.add_argument("--recipe", choices=tuple(RECIPES), default="plus")
    how.add_argument(
        "--from",
        dest="start_from",
        metavar="NAME|PATH",
        help="start each from a model: compare how methods fine-tune it",
    )
    how.add_argument("--backbone", "--network", choices=backbone_names())
    how.add_argument("--co-train", action="store_true", help="two networks that teach each other")
    how.add_argument("--batch", type=count, metavar="N")
    how.add_argument("--patch", type=size, metavar="K,J,I")
    length = how.add_mutually_exclusive_group()
    length.add_argument("--budget", type=seconds, metavar="TIME", help="train each run this long: 90s, 10m, 1h")
    length.add_argument("--steps", type=count, metavar="N", help="or so many steps (default: 9,300 or, slices, 40,000)")
    how.add_argument(
        "--processor-time",
        action="store_true",
        help="count --budget in processor time, so that other programs take nothing away (--device cpu)",
    )
    add_device(how)
    command.add_argument("--for", dest="limit", type=seconds, metavar="TIME", help="stop after this long; go on later")
    command.add_argument("--only", type=_numbers, help=argparse.SUPPRESS)  # the runs of a job
    add_cluster(command)
    command.set_defaults(run=run)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(count(word) for word in text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(number(word) for word in text.split(","))


def run(arguments: argparse.Namespace) -> int:
    if arguments.ablation and arguments.methods:
        raise UsageError("--ablation is a list of variants by itself; give it, or --methods")
    if arguments.processor_time and (arguments.budget is None or arguments.device != "cpu"):
        raise UsageError("--processor-time counts the --budget of a processor; give --budget and --device cpu with it")
    from mper.benchmark.figures import write_figures
    from mper.benchmark.run import TimeLimitReached, read_results, run_benchmark
    from mper.benchmark.tables import write_tables
    from mper.utils.plots import MissingMatplotlib

    try:
        benchmark = _configured(arguments)
    except ValueError as error:
        raise UsageError(str(error)) from error
    settings = cluster_settings(arguments)
    if settings is not None and arguments.limit is not None:
        raise UsageError("--for limits the time of this computer, --time that of a job; give one of them")
    out: Path = arguments.out
    cohort = _prepared(benchmark, arguments)
    if arguments.only is not None:
        return _work_on(benchmark, cohort, arguments)
    total = len(benchmark.runs())

    def after_run(title: str) -> None:
        results = read_results(benchmark, out)
        write_tables(benchmark, cohort, results, out)
        print_message(f"mper: {len(results)} of {total} runs are done: {title}")

    def so_far() -> str:
        return f"{len(read_results(benchmark, out))} of {total} runs are done; the same command goes on"

    failed: list[str] = []
    stopped = False
    try:
        with Bar() as bar:
            if settings is not None:
                failed, waits = _in_jobs(benchmark, settings, arguments, bar)
                if waits:
                    return OK
            else:
                failed = run_benchmark(
                    benchmark,
                    cohort,
                    out,
                    arguments.device,
                    arguments.limit,
                    bar,
                    print_note,
                    after_run,
                )
    except TimeLimitReached:
        stopped = True
    except (Cancelled, KeyboardInterrupt) as stop:
        raise Cancelled(str(stop) if settings is not None and str(stop) else so_far()) from None
    results = read_results(benchmark, out)
    if failed and not results:
        raise ValueError(f"none of {total} runs could be done; the first: {failed[0]}")
    print_result(write_tables(benchmark, cohort, results, out))
    figures = ""
    try:
        write_figures(benchmark, cohort, results, out)
        figures = " and figures" if results else ""
    except MissingMatplotlib as error:
        print_note(str(error))
    print_result(f"written to {out}: results.md, results.csv, cases.csv{figures}")
    if stopped:
        print_result(so_far())
    return FAILED if failed else OK


def _prepared(benchmark: Benchmark, arguments: argparse.Namespace) -> Cohort:
    """The cases, and the folder made ready.

    Raises
    ------
    UsageError
        If the data or the folder do not go with what is asked for.
    ValueError
        If a file of the data or of the folder is damaged.
    """
    from mper.benchmark.plan import CONFIG, select_cases
    from mper.benchmark.synthetic import make_data
    from mper.datasets.packed import open_dataset
    from mper.utils.files import read_json

    out: Path = arguments.out
    data = make_data(benchmark.task, out / f"made-up-{benchmark.task}") if arguments.smoke else arguments.data
    open_dataset(data)
    if (out / CONFIG).exists():
        read_json(out / CONFIG)
    try:
        cohort = select_cases(benchmark, data)
        benchmark.prepare_folder(out, cohort)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return cohort


def _work_on(benchmark: Benchmark, cohort: Cohort, arguments: argparse.Namespace) -> int:
    """The runs of a job; the tables are written by the command that has submitted it."""
    from mper.benchmark.run import run_benchmark

    with Bar() as bar:
        failed = run_benchmark(
            benchmark, cohort, arguments.out, arguments.device, report=bar, notify=print_note, only=arguments.only
        )
    for line in failed:
        print_error(line)
    return FAILED if failed else OK


def _in_jobs(
    benchmark: Benchmark, settings: ClusterSettings, arguments: argparse.Namespace, bar: Bar
) -> tuple[list[str], bool]:
    """Do the runs that are left in jobs; gives a line for each that failed, and whether the jobs are left alone."""
    from mper.benchmark.run import is_done
    from mper.cluster.settings import LOCAL

    home = arguments.out.resolve()
    runs = benchmark.runs()
    left = [n for n, run in enumerate(runs) if not is_done(run, home)]
    if not left:
        return [], False
    count = min(settings.jobs, len(left)) if settings.kind == LOCAL else len(left)  # SLURM lets the others wait
    shares = [left[n::count] for n in range(count)]
    words = _words(benchmark, arguments, home)
    jobs = submit(
        home,
        settings,
        [("; ".join(runs[n].title for n in share), [*words, "--only", ",".join(map(str, share))]) for share in shares],
    )
    if arguments.detach:
        return [], True

    def update() -> None:
        done = sum(is_done(run, home) for run in runs)
        bar(Progress(f"{done} of {len(runs)} runs are done", done / len(runs)))

    wait_for(jobs, update)
    return [
        f"{runs[n].title}: {jobs.reason(number)}"
        for number, share in enumerate(shares)
        for n in share
        if not is_done(runs[n], home)
    ], False


def _words(benchmark: Benchmark, arguments: argparse.Namespace, home: Path) -> list[str]:
    """The command of a job, without its runs."""
    words = [*MPER, "benchmark", benchmark.task, "--out", str(home)]
    words += ["--smoke"] if arguments.smoke else ["--data", str(arguments.data.resolve())]
    words += ["--labeled", ",".join(map(str, benchmark.labeled)), "--methods", ",".join(benchmark.variants)]
    words += ["--seeds", str(benchmark.seeds), "--recipe", benchmark.recipe, "--device", arguments.device]
    words += ["--co-train"] if benchmark.co_train else []
    words += ["--processor-time"] if benchmark.processor_time else []
    given = {
        "--from": benchmark.start_from,
        "--backbone": benchmark.backbone,
        "--batch": benchmark.batch,
        "--patch": ",".join(map(str, benchmark.patch)) if benchmark.patch else None,
        "--budget": None if benchmark.budget_s is None else f"{benchmark.budget_s}s",
        "--steps": benchmark.steps,
        "--split": benchmark.split,
    }
    return [*words, *(str(word) for name, value in given.items() if value is not None for word in (name, value))]


def _configured(arguments: argparse.Namespace) -> Benchmark:
    """The benchmark that was asked for."""
    from mper.benchmark.plan import TASKS, Benchmark, Variant, ablation, suits, that_fine_tune
    from mper.models.card import read_bundle
    from mper.resources import find_model

    values: dict[str, Any] = {name: getattr(arguments, name) for name in ("labeled", "seeds", "steps", "batch")}
    if arguments.smoke:
        values = {name: _SMOKE[name] if value is None else value for name, value in values.items()}
        if arguments.budget is not None:
            values["steps"] = None
    usual = benchmark_methods()
    if arguments.smoke:
        usual = tuple(name for name in METHODS if suits(name, arguments.task))
    if AUTO in [word.partition(":")[0] for word in arguments.methods or ()]:
        raise UsageError(
            f"--methods {AUTO}: {AUTO} is for `mper train`, which chooses one method by the data; name the methods to "
            f"compare, of {', '.join(METHODS)}"
        )
    words = arguments.methods
    start_from = None if arguments.start_from is None else find_model(arguments.start_from).resolve()
    if words is None:
        words = ablation(arguments.recipe, TASKS[arguments.task].slices) if arguments.ablation else usual
        words = words if start_from is None else that_fine_tune(words, read_bundle(start_from).card)
    return Benchmark(
        task=arguments.task,
        labeled=values["labeled"] or TASKS[arguments.task].labeled,
        variants=tuple(dict.fromkeys(Variant.parse(word).word for word in words)),
        seeds=values["seeds"] or 3,
        recipe=arguments.recipe,
        backbone=arguments.backbone,
        co_train=arguments.co_train,
        start_from=None if start_from is None else str(start_from),
        steps=values["steps"],
        budget_s=arguments.budget,
        processor_time=arguments.processor_time,
        batch=values["batch"],
        patch=arguments.patch,
        split=arguments.split,
        made_up=arguments.smoke,
    )
