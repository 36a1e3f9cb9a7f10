"""imgclassify predict: classifies images."""

import typer

from imgclassify.cli.app import CommandApp
from imgclassify.cli.console import download_progress, print_verbose
from imgclassify.cli.option_groups import with_option_groups
from imgclassify.cli.options import (
    ConsoleOptions,
    DecodingOptions,
    LoadingOptions,
    Model,
    Offline,
    OutputOptions,
    PreprocessingOptions,
    RunningOptions,
    SourceOptions,
    TopK,
    UnattendedOptions,
)
from imgclassify.cli.run import open_run

app = CommandApp(add_completion=False)


@app.command(
    epilog="Exit status: 0 every image classified, 1 some failed, 2 wrong usage, 3 model, labels or device "
    "unavailable, 4 no image found, 130 interrupted (129 by SIGHUP, 143 by SIGTERM).",
    examples={
        "one image": "imgclassify predict dog.jpg",
        "a folder, as a table": "imgclassify predict photos/ -o labels.csv",
        "resume a long run": "imgclassify predict photos/ -o labels.csv --resume",
        "another model": "imgclassify predict dog.jpg -m resnet50",
        "JSON for jq": "imgclassify predict photos/ --jsonl | jq .predictions",
    },
)
@with_option_groups
def predict(
    *,
    sources: SourceOptions,
    model: Model = None,
    loading: LoadingOptions,
    top_k: TopK = 5,
    output: OutputOptions,
    unattended: UnattendedOptions,
    decoding: DecodingOptions,
    running: RunningOptions,
    preprocessing: PreprocessingOptions,
    offline: Offline = False,
    console: ConsoleOptions,
) -> None:
    """Classify images and print the most probable labels with their softmax probabilities.

    Writes one record per image, in input order. A broken file gets an error record, and the run continues.
    """
    console.configure()
    from imgclassify.output.records import PREDICTIONS

    with open_run(PREDICTIONS, sources, output, unattended, offline=offline) as run:
        from imgclassify.classifier import Classifier

        with download_progress() as progress:
            classifier = Classifier(
                model,
                arch=loading.arch,
                labels=loading.labels,
                trust=loading.trust,
                top_k=top_k,
                num_images=run.num_images,
                offline=offline,
                progress=progress,
                **decoding.classifier_arguments(),
                **running.classifier_arguments(),
                **preprocessing.classifier_arguments(),
            )
        info = classifier.run
        print_verbose(f"{info.model} ({info.weights}) on {info.engine}, {info.device}, {info.dtype}: {info.reason}")
        run.write_records(classifier, {"top_k": classifier.top_k})
    raise typer.Exit(int(run.stats.status))
