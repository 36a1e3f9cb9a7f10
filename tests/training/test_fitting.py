"""A training: the tutorial's loop to the bit, what comes out of it, and what it says when it cannot go on."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from labelled_images import as_sources, make_images, tiny_spec
from networks import TutorialNet
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from imgclassify.errors import DeviceError, NoImagesError, TrainingError
from imgclassify.training import trainer
from imgclassify.training.dataset import LabelledSource
from imgclassify.training.fitting import FittedNetwork, Progress, fit_network
from imgclassify.training.recipe import Recipe, default_recipe, named_recipe
from imgclassify.training.training_state import TrainingState

TUTORIAL = named_recipe("tutorial")
ALLOCATION = (
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
)


class Images(NamedTuple):
    train: list[LabelledSource]
    val: list[LabelledSource]


class NormNet(nn.Module):
    """A small network with batch norm and dropout."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


class Folder(Dataset[tuple[torch.Tensor, int]]):
    """Images as the tutorial reads them."""

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])

    def __init__(self, images: list[LabelledSource]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        source, class_index = self.images[index]
        return self.transform(Image.open(source.name)), class_index


def plain_loop(
    images: list[LabelledSource], num_classes: int, seed: int, every: int
) -> tuple[nn.Module, list[float]]:
    """The tutorial's loop. Returns the network and the running losses that it prints."""
    torch.manual_seed(seed)
    net = TutorialNet(num_classes)
    loader = DataLoader(Folder(images), batch_size=4, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    printed = []
    for _ in range(2):
        running_loss = 0.0
        for i, (inputs, labels) in enumerate(loader):
            optimizer.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            if i % every == every - 1:
                printed.append(running_loss / every)
                running_loss = 0.0
    return net, printed


def fit(
    network: nn.Module,
    train: list[LabelledSource],
    val: list[LabelledSource],
    recipe: Recipe,
    folder: Path,
    **more: Any,
) -> FittedNetwork:
    folder.mkdir(exist_ok=True)
    options = {"num_classes": 3, "preprocess": tiny_spec(), "folder": folder, "device": "cpu", **more}
    return fit_network(network, train, val, recipe, **options)


def quick(**changes: Any) -> Recipe:
    """A recipe of two epochs with everything that is random in it."""
    recipe = default_recipe("finetune", 24, crop_side=32)
    return replace(recipe, **{"epochs": 2, "batch_size": 8, "dtype": "float32", **changes})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    return Images(make_images(folder / "train", 3, 9), make_images(folder / "val", 3, 4))


class TestTutorial:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_weights_are_those_of_a_plain_loop_to_the_bit(
        self, images: Images, tmp_path: Path, seed: int
    ) -> None:
        train, val = images
        wanted, printed = plain_loop(train, 3, seed, every=3)
        reported: list[Progress] = []
        torch.manual_seed(seed)
        recipe = replace(TUTORIAL, loss_every=3)
        fitted = fit(TutorialNet(3), train, val, recipe, tmp_path / "work", report=reported.append)
        for name, tensor in wanted.state_dict().items():
            assert np.array_equal(fitted.state_dict[name], tensor.numpy()), name
        assert [each.running_loss for each in reported if each.running_loss is not None] == printed
        with torch.no_grad():
            logits = torch.cat([wanted(Folder(val)[index][0][None]) for index in range(len(val))])
        np.testing.assert_allclose(fitted.val_logits, logits.numpy(), rtol=0, atol=1e-6)
        assert fitted.val_class_indices.tolist() == [each.class_index for each in val]
        assert (fitted.epochs, fitted.stopped, fitted.dtype) == (2, "epochs", "float32")

    def test_the_order_and_a_last_batch_that_is_short_are_those_of_the_loader(self, images: Images) -> None:
        assert len(images[0]) % TUTORIAL.batch_size  # or the test above would not see it

    def test_the_plain_loop_depends_on_the_seed(self, images: Images) -> None:
        """So the test above could fail."""
        assert plain_loop(images[0], 3, 0, 3)[1] != plain_loop(images[0], 3, 1, 3)[1]


class TestResult:
    def test_it_learns_to_tell_the_classes_apart(self, images: Images, tmp_path: Path) -> None:
        """The network, the logits and the history agree, and are better than at the beginning."""
        torch.manual_seed(0)
        network = NormNet()
        recipe = quick(epochs=25, learning_rate=0.03, first_layer_rate=1.0, batch_norm="updated", flip=0.0)
        fitted = fit(network, *images, replace(recipe, trivial_augment=False), tmp_path)
        first, best = fitted.history[0], fitted.history[fitted.best_epoch]
        assert best.val_accuracy > 0.9 > first.val_accuracy
        assert best.val_loss < first.val_loss
        accuracy = (fitted.val_logits.argmax(1) == fitted.val_class_indices).mean()
        assert accuracy == pytest.approx(best.val_accuracy)
        assert [record.epoch for record in fitted.history] == list(range(26))
        lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
        assert [line["val_accuracy"] for line in lines] == [record.val_accuracy for record in fitted.history]

    def test_the_weights_give_the_logits_in_a_new_network(self, images: Images, tmp_path: Path) -> None:
        fitted = fit(NormNet(), *images, quick(), tmp_path)
        network = NormNet()
        network.load_state_dict({name: torch.from_numpy(array) for name, array in fitted.state_dict.items()})
        folder = Folder(images.val)
        with torch.no_grad():
            logits = network.eval()(torch.stack([folder[index][0] for index in range(len(folder))]))
        np.testing.assert_allclose(fitted.val_logits, logits.numpy(), rtol=0, atol=1e-5)
        assert all(array.flags.c_contiguous for array in fitted.state_dict.values())

    def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
        self, images: Images, tmp_path: Path
    ) -> None:
        found = []
        for number, seed in enumerate((0, 0, 1)):
            torch.manual_seed(7)
            fitted = fit(NormNet(), *images, quick(mixup=0.3), tmp_path / str(number), seed=seed)
            found.append(b"".join(array.tobytes() for array in fitted.state_dict.values()))
        assert found[0] == found[1] != found[2]

    def test_frozen_statistics_stay_and_updated_ones_change(self, images: Images, tmp_path: Path) -> None:
        for word, stays in (("frozen", True), ("updated", False)):
            network = NormNet()
            before = network.norm.running_mean.clone().numpy()
            fitted = fit(network, *images, quick(batch_norm=word, keep="last"), tmp_path / word)
            assert np.array_equal(fitted.state_dict["norm.running_mean"], before) == stays
            assert not np.array_equal(fitted.state_dict["norm.weight"], np.ones(8, np.float32))

    def test_the_best_epoch_or_the_last_is_kept(self, images: Images, tmp_path: Path) -> None:
        """A rate that is far too high makes every epoch worse than the network was before."""
        network = NormNet()
        start = {name: tensor.clone().numpy() for name, tensor in network.state_dict().items()}
        bad = quick(learning_rate=1e4, optimizer="sgd", clip_norm=1.0, ema_decay=0.0)
        best = fit(network, *images, bad, tmp_path / "best")
        assert best.best_epoch == 0
        assert all(np.array_equal(array, start[name]) for name, array in best.state_dict.items())
        last = fit(NormNet(), *images, replace(bad, keep="last"), tmp_path / "last")
        assert not np.array_equal(last.state_dict["conv.weight"], start["conv.weight"])

    def test_training_ends_early_if_nothing_gets_better(self, images: Images, tmp_path: Path) -> None:
        bad = quick(
            learning_rate=30.0, optimizer="sgd", weight_decay=0.05, epochs="auto", max_epochs=20, patience=3
        )
        fitted = fit(NormNet(), *images, bad, tmp_path)
        assert (fitted.stopped, fitted.epochs, fitted.best_epoch) == ("early", 3, 0)
        assert len(fitted.history) == 4

    def test_without_a_validation_part_the_last_epoch_is_the_result(self, images: Images, tmp_path: Path) -> None:
        fitted = fit(NormNet(), images.train, [], quick(), tmp_path)
        assert fitted.val_logits.shape == (0, 3)
        assert (fitted.epochs, fitted.best_epoch) == (2, 2)
        assert fitted.history[1].val_accuracy is None

    def test_a_network_that_returns_a_dictionary_is_trained(self, images: Images, tmp_path: Path) -> None:
        class Named(NormNet):
            def forward(self, x: torch.Tensor) -> Any:
                return {"hidden": x.mean((2, 3))[:, :2], "logits": super().forward(x)}

        assert fit(Named(), *images, quick(), tmp_path).val_logits.shape == (12, 3)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_each_dtype_gives_weights_of_float32(self, images: Images, tmp_path: Path, dtype: str) -> None:
        fitted = fit(NormNet(), *images, quick(dtype=dtype), tmp_path)
        assert fitted.dtype == dtype
        assert {array.dtype.name for array in fitted.state_dict.values()} == {"float32", "int64"}


class TestBatches:
    def test_a_last_batch_of_one_image_is_left_out_if_batch_norm_needs_more(
        self, images: Images, tmp_path: Path
    ) -> None:
        for word, steps in (("updated", 2), ("frozen", 3)):
            reported: list[Progress] = []
            recipe = quick(batch_size=8, last_batch="keep", batch_norm=word, epochs=1)
            fit(NormNet(), images.train[:17], images.val, recipe, tmp_path / word, report=reported.append)
            assert reported[-1].total == steps

    def test_fewer_images_than_a_batch_are_one_batch(self, images: Images, tmp_path: Path) -> None:
        reported: list[Progress] = []
        recipe = quick(batch_size=64, last_batch="drop", epochs=1)
        fit(NormNet(), *images, recipe, tmp_path, report=reported.append)
        assert reported[-1].total == 1
        assert reported[-1].record is not None


class TestTime:
    def test_training_ends_when_its_time_is_over_with_the_lowest_rate(self, images: Images, tmp_path: Path) -> None:
        started = time.monotonic()
        recipe = quick(epochs="auto", max_epochs=10_000, patience=0, time_limit=1.0, final_rate=0.0)
        fitted = fit(NormNet(), *images, recipe, tmp_path)
        assert fitted.stopped == "time"
        assert time.monotonic() - started < 30
        rates = [record.learning_rate for record in fitted.history[1:]]
        assert len(rates) > 2
        assert rates[-1] < 0.2 * max(rates)
        assert fitted.history[-1].seconds >= 1

    def test_progress_counts_steps_and_time(
        self, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trainer, "REPORT_SECONDS", 0.0)
        reported: list[Progress] = []
        fit(NormNet(), *images, quick(), tmp_path, report=reported.append)
        decoding = [each for each in reported if each.stage == "images"]
        assert [(each.done, each.total) for each in decoding] == [(number, 39) for number in range(1, 40)]
        steps = [each for each in reported if each.stage == "training" and each.record is None]
        assert [each.done for each in steps] == list(range(1, 9))
        assert [(each.epoch, each.batch) for each in steps] == [(e, b) for e in (1, 2) for b in (1, 2, 3, 4)]
        assert all(each.total == 8 and each.epochs == 2 for each in steps)
        assert all(each.seconds_left > 0 and each.images_per_second > 0 for each in steps[:-1])
        records = [each.record for each in reported if each.record is not None]
        assert [record.epoch for record in records] == [0, 1, 2]
        assert reported[-1].seconds_left == 0
        assert reported[-1].accuracy == records[-1].val_accuracy


class TestFailures:
    def test_broken_images_are_left_out_of_both_parts(
        self, images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(Path(images.train[0].source.name).read_bytes()[:60])
        [source] = as_sources(broken)
        train = [*images.train[:5], LabelledSource(source, 0), *images.train[5:]]
        val = [LabelledSource(source, 1), *images.val]
        torch.manual_seed(0)
        fitted = fit(NormNet(), train, val, quick(), tmp_path / "work")
        assert list(fitted.failures) == [str(broken)]
        assert fitted.failures[str(broken)].type == "truncated_image"
        assert fitted.val_positions == tuple(range(1, 13))
        assert fitted.val_class_indices.tolist() == [each.class_index for each in images.val]
        assert "broken.png is left out" in caplog.text
        torch.manual_seed(0)
        without = fit(NormNet(), *images, quick(), tmp_path / "without")
        assert np.array_equal(without.val_logits, fitted.val_logits)

    def test_no_image_that_can_be_decoded_is_an_error(self, images: Images, tmp_path: Path) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"\x89PNG\r\n\x1a\n")
        train = [LabelledSource(source, 0) for source in as_sources(broken)]
        with pytest.raises(NoImagesError, match="no image to learn from"):
            fit(NormNet(), train, images.val, quick(), tmp_path / "work")

    @pytest.mark.parametrize("where", ["loss", "logits"])
    def test_a_loss_that_is_not_finite_is_an_error_with_advice(
        self, images: Images, tmp_path: Path, where: str
    ) -> None:
        class Exploding(NormNet):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                factor = float("nan") if self.training == (where == "loss") else 1.0
                return super().forward(x) * factor

        with pytest.raises(TrainingError, match=r"not a finite number in epoch 1, after 0") as raised:
            fit(Exploding(), *images, quick(), tmp_path)
        assert "learning_rate" in raised.value.hint

    def test_weights_that_explode_leave_the_state_as_it_was(self, images: Images, tmp_path: Path) -> None:
        class Later(NormNet):
            steps = 0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.steps += self.training
                return super().forward(x) * (float("inf") if self.steps == 6 else 1.0)

        with pytest.raises(TrainingError, match="in epoch 2, after 1 batches"):
            fit(Later(), *images, quick(), tmp_path)
        state = TrainingState.load(tmp_path / trainer.STATE)
        assert all(tensor.isfinite().all() for tensor in state.tensors.values() if tensor.is_floating_point())

    @pytest.mark.parametrize(
        "error",
        [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError(ALLOCATION)],
        ids=["cuda", "python", "cpu"],
    )
    def test_a_full_memory_is_an_error_with_advice(self, images: Images, tmp_path: Path, error: Exception) -> None:
        class Huge(NormNet):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if self.training:
                    raise error
                return super().forward(x)

        with pytest.raises(DeviceError, match=r"not enough free memory on cpu .* batches of 8$") as raised:
            fit(Huge(), *images, quick(), tmp_path)
        assert "batch_size = 4" in raised.value.hint

    def test_other_errors_stay_as_they_are(self, images: Images, tmp_path: Path) -> None:
        class Wrong(NormNet):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("shapes")

        with pytest.raises(RuntimeError, match=r"^shapes$"):
            fit(Wrong(), *images, quick(), tmp_path)

    def test_a_device_that_is_not_there_is_named(self, images: Images, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match="'cuda:77'"):
            fit(NormNet(), *images, quick(), tmp_path, device="cuda:77")
