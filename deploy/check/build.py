"""Builds the image from the steps of the Dockerfile, in roots made by debootstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from deploy.check.dockerfile import (
    Stage,
    fill_in,
    is_ignored,
    read_command,
    read_pairs,
    read_stages,
)

SUITE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
CERTIFICATES = Path("etc/ssl/certs/ca-certificates.crt")


@dataclass(slots=True)
class Image:
    """What a stage has made.

    Attributes:
        root: its files.
        command, health: of CMD and HEALTHCHECK.
    """

    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)


def make_base(place: Path) -> Path:
    """Return a Debian with Python, made once: it stands in for the image `python:...-slim`."""
    root = place / SUITE
    if not root.exists():
        half = place / f"{SUITE}.half"
        shutil.rmtree(half, ignore_errors=True)
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(half)])
        (half / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        half.rename(root)
    return root


def build_image(context: Path, place: Path) -> Image:
    """Return the image of the last stage, its files below `place`.

    Args:
        context: the directory with the Dockerfile.
    """
    base = make_base(place)
    built: dict[str, Image] = {}
    stages = read_stages((context / "Dockerfile").read_text())
    for stage in stages:
        root = place / (stage.name or "image")
        shutil.rmtree(root, ignore_errors=True)
        run(["cp", "--archive", str(base), str(root)])
        image = Image(root)
        for number, step in enumerate(stage.steps):
            print(f"{stage.name or 'image'}: {step.word} {step.text[:90]}", flush=True)
            take_step(image, stage, number, context=context, built=built)
        built[stage.name] = image
    return built[""]


def take_step(
    image: Image, stage: Stage, number: int, *, context: Path, built: dict[str, Image]
) -> None:
    """Do what an instruction says."""
    word, text = stage.steps[number].word, stage.steps[number].text
    known = {**image.arguments, **image.environ}
    if word == "ARG":
        name, _, value = text.partition("=")
        image.arguments[name] = value
    elif word == "ENV":
        image.environ |= read_pairs(text, known)
    elif word == "WORKDIR":
        image.directory = text
        inside(image.root, text).mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        image.user = text
    elif word == "RUN":
        run_inside(image, ["/bin/sh", "-e", "-c", text])
    elif word == "COPY":
        copy(image, fill_in(text, known).split(), context=context, built=built)
    elif word == "CMD":
        image.command = read_command(text)
    elif word == "HEALTHCHECK":
        image.health = read_command(text)
    elif word not in ("LABEL", "VOLUME", "EXPOSE", "STOPSIGNAL"):
        raise ValueError(f"the check does not know {word}")


def run_inside(image: Image, command: Sequence[str]) -> None:
    """Run a command of the build in the image, as root, with the network."""
    with mounted(image.root):
        own = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        own.pop("PIP_FIND_LINKS", None)
        environ = [f"{name}={value}" for name, value in {**own, **image.environ}.items()]
        chdir = f"--chdir={image.directory}"
        run(["chroot", str(image.root), "/usr/bin/env", "-i", chdir, *environ, *command])


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """Have what a build needs of this machine in a root: devices, name servers, certificates."""
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(Path("/etc") / name, root / "etc" / name)
    shutil.copyfile("/" / CERTIFICATES, root / CERTIFICATES)
    with ExitStack() as stack:
        for name in ("dev", "proc"):
            run(["mount", "--bind", f"/{name}", str(root / name)])
            stack.callback(run, ["umount", "--lazy", str(root / name)])
        yield


def copy(image: Image, words: Sequence[str], *, context: Path, built: dict[str, Image]) -> None:
    """Copy files from the context, or from another stage."""
    *sources, target = [word for word in words if not word.startswith("--")]
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    goal = inside(image.root, str(PurePosixPath(image.directory) / target))
    if "from" in options:
        (source,) = sources
        shutil.copytree(inside(built[options["from"]].root, source), goal, symlinks=True)
        return
    kept = list_context(context)
    for source in sources:
        for relative in kept if source == "." else [PurePosixPath(source)]:
            (goal / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / relative, goal / relative)


def list_context(context: Path) -> list[PurePosixPath]:
    """Return the files that `.dockerignore` lets into an image."""
    lines = (context / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    # Other directories have too many files to look at each.
    tops = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    found = (path for top in tops for path in (context / top, *(context / top).rglob("*")))
    files = (PurePosixPath(path.relative_to(context)) for path in found if path.is_file())
    return sorted(path for path in files if not is_ignored(path, patterns))


def inside(root: Path, path: str) -> Path:
    """Return where a path of the image lies on this machine."""
    return root / path.lstrip("/")


def run(command: Sequence[str]) -> None:
    """Run a command; what it prints is shown only if it fails. Raises CalledProcessError."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-4000:])
        raise subprocess.CalledProcessError(done.returncode, list(command))
