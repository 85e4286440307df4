"""How fast images reach a training: from memory against a step of ResNet-56, from JPEG files against decoding alone.

    python benchmarks/input_speed.py                                   # both tables, on the CPU or the GPU there is
    python benchmarks/input_speed.py --images 2000 --files 256 --rounds 3
    python benchmarks/input_speed.py --height 375 --width 500          # files of ImageNet's usual size

Images are generated. What is compared is measured in turns, and a ratio is the median over the rounds.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from options import parser_of
from pages import listed
from records import hardware, versions
from torch import Tensor

from prunus.engine.config import Augment
from prunus.engine.data import Split, Stream, batches
from prunus.engine.runtime import Runtime
from prunus.engine.stream import cores

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
FILE_BATCH = 32
WANTED = 0.9
"""Share of the speed of decoding alone that a feed from files should reach."""

PLAIN = "crop + flip"
ROWS = {
    "none": None,
    PLAIN: Augment(crop=4, flip=True),
    "+ cutout 16": Augment(crop=4, flip=True, cutout=16),
    "+ jitter 0.4": Augment(crop=4, flip=True, jitter=0.4),
    "+ RandAugment 2, 9": Augment(crop=4, flip=True, policy="randaugment"),
    "+ AutoAugment": Augment(crop=4, flip=True, policy="autoaugment"),
    "+ mixup 0.2": Augment(crop=4, flip=True, mixup=0.2),
    "+ cutmix 1": Augment(crop=4, flip=True, cutmix=1.0),
}


def rate(images: int, run: Callable[[], object], device: torch.device) -> float:
    """Images a second of one run."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - start)


def taken(feed: Iterable[Any]) -> Callable[[], object]:
    """All batches, one after the other."""
    return lambda: sum(1 for _ in feed)


def in_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each run gives, measured `rounds` times in turns, after one that warms up."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return found


def training(runtime: Runtime, batch_size: int) -> Callable[[int], None]:
    """So many steps of ResNet-56 on one batch that is there already."""
    from prunus.models import resolve

    device = runtime.torch_device
    torch.manual_seed(0)
    model = resolve("resnet56", 10)
    net = runtime.place(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = runtime.move(torch.randn(batch_size, 3, 32, 32))
    y = torch.randint(0, 10, (batch_size,), device=device)

    def steps(count: int) -> None:
        for _ in range(count):
            with runtime.autocast():
                loss = torch.nn.functional.cross_entropy(net(x), y)
            sgd.zero_grad()
            loss.backward()
            sgd.step()

    return steps


def memory(runtime: Runtime, images: int, batch_size: int, steps: int, rounds: int) -> list[str]:
    """The first table."""
    device = runtime.torch_device
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split = Split(pixels, torch.randint(0, 10, (images,), generator=draw))
    train = training(runtime, batch_size)
    runs: dict[str, Callable[[], float]] = {"step": lambda: rate(steps * batch_size, lambda: train(steps), device)}
    for name, augment in ROWS.items():
        feed = batches(
            split,
            batch_size=batch_size,
            mean=MEAN,
            std=STD,
            shuffle=True,
            augment=augment,
            device=device,
            channels_last=runtime.channels_last,
        )
        runs[name] = lambda feed=feed: rate(images, taken(feed), device)  # type: ignore[misc]
    found = in_turns(runs, rounds)
    how = f"{runtime.precision}, {'NHWC' if runtime.channels_last else 'NCHW'}"
    how += ", compiled" if runtime.compile else ", eager"
    lines = [
        f"## From memory: {images} images of 32 x 32, batches of {batch_size}",
        "",
        f"A training step of ResNet-56 ({how}) takes {median(found['step']):.0f} images/s.",
        "",
        "| augmentation | images/s | times the step's |",
        "|---|---|---|",
    ]
    for name in ROWS:
        ratio = median(a / b for a, b in zip(found[name], found["step"], strict=True))
        lines.append(f"| {name} | {median(found[name]):.0f} | {ratio:.1f} |")
    ratio = median(a / b for a, b in zip(found[PLAIN], found["step"], strict=True))
    return [*lines, "", f"{PLAIN}: {ratio:.1f} times; wanted: at least 10. {'Reached.' if ratio >= 10 else 'MISSED.'}"]


def generated(folder: Path, count: int, height: int, width: int) -> list[Path]:
    """JPEG files of smooth shapes with some grain, quality 90."""
    from PIL import Image

    random, files = np.random.RandomState(0), []
    for i in range(count):
        rough = Image.fromarray(random.randint(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8))
        smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = random.randint(-8, 9, smooth.shape)
        files.append(folder / f"{i}.jpg")
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


class Decoding(torch.utils.data.Dataset[Tensor]):
    """Torchvision's decoding of each file, and where wanted its random resized crop."""

    def __init__(self, files: list[Path], side: int | None) -> None:
        self.files, self.side = files, side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg, read_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            image: Tensor = decode_jpeg(read_file(str(self.files[i])), mode=ImageReadMode.RGB)
        if self.side is None:
            return torch.empty(0)
        from torchvision.transforms import v2

        cropped: Tensor = v2.RandomResizedCrop(self.side, antialias=True)(image)
        return cropped


def files(runtime: Runtime, count: int, height: int, width: int, workers: int, rounds: int) -> list[str]:
    """The second table."""
    from torch.utils.data import DataLoader

    device, side = runtime.torch_device, 224
    with tempfile.TemporaryDirectory() as folder:
        paths = generated(Path(folder), count, height, width)
        kilobytes = sum(path.stat().st_size for path in paths) / count / 1000
        labels = torch.zeros(count, dtype=torch.int64)
        short = min(height, width)
        stream = Stream(paths, labels, lambda i: str(paths[i]), (3, side, side), (short, side), workers)
        settings: dict[str, Any] = {"batch_size": FILE_BATCH, "mean": MEAN, "std": STD, "device": device}
        settings |= {"channels_last": runtime.channels_last}
        alone, theirs = (
            DataLoader(Decoding(paths, s), FILE_BATCH, num_workers=workers, persistent_workers=workers > 0)
            for s in (None, side)
        )
        feeds = {
            "torchvision decodes, and nothing else": alone,
            "torchvision decodes and makes a random resized crop": theirs,
            "this feed, centre crop": batches(stream, **settings),
            "this feed, random resized crop, flip": batches(
                stream, shuffle=True, augment=Augment(flip=True), **settings
            ),
        }
        runs: dict[str, Callable[[], float]] = {
            name: (lambda feed=feed: rate(count, taken(feed), device))  # type: ignore[misc]
            for name, feed in feeds.items()
        }
        found = in_turns(runs, rounds)
    base = found[next(iter(feeds))]
    lines = [
        f"## From files: {count} JPEGs of {width} x {height}, {kilobytes:.0f} kB each, to {side} x {side}",
        "",
        f"Batches of {FILE_BATCH}, {workers} worker processes; this feed's images are normalised as well, on the "
        f"{device.type}.",
        "",
        "| what | images/s | share of decoding alone |",
        "|---|---|---|",
    ]
    shares = {name: median(a / b for a, b in zip(rates, base, strict=True)) for name, rates in found.items()}
    lines += [f"| {name} | {median(found[name]):.0f} | {share:.2f} |" for name, share in shares.items()]
    ours = [share for name, share in shares.items() if name.startswith("this feed")]
    judged = "Reached." if min(ours) >= WANTED else "MISSED."
    return [*lines, "", f"This feed: {min(ours):.2f} to {max(ours):.2f}; wanted: at least {WANTED:.2f}. {judged}"]


def conditions(runtime: Runtime, rounds: int) -> str:
    """What it was measured on."""
    machine = ", ".join(dict.fromkeys(hardware(device) for device in (runtime.torch_device, torch.device("cpu"))))
    return f"{listed(versions('torchvision'))}; {machine}; seed 0, median of {rounds} rounds in turns."


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=20000, help="images in memory")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="training steps in each round")
    parser.add_argument("--files", type=int, default=1024, help="JPEG files to generate")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--workers", type=int, default=None, help="default: one a core")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", choices=("memory", "files"))
    given = parser.parse_args()
    runtime = Runtime(given.device, given.precision, given.channels_last, given.compile)
    print(f"# Speed of the input\n\n{conditions(runtime, given.rounds)}\n", flush=True)
    if given.only != "files":
        print("\n".join(memory(runtime, given.images, given.batch_size, given.steps, given.rounds)) + "\n", flush=True)
    if given.only != "memory":
        workers = cores() if given.workers is None else given.workers
        print("\n".join(files(runtime, given.files, given.height, given.width, workers, given.rounds)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
