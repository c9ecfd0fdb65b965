"""The engine's packages: what is missing is seen, and comes into a folder of its own or not at all."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer
from MPERLib import install, install_progress, mrml, settings, torch_build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine's folder of packages, not there yet."""
    chosen = tmp_path / "user" / "päckages"
    monkeypatch.setenv("MPER_PACKAGES", str(chosen))
    return chosen


@pytest.fixture
def two_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small packages stand for the engine's; the second asks, as lightning-fabric does, for what is not to come."""
    monkeypatch.setattr(install, "requirements", lambda: ["mper-test-one>=1,<2", "mper-test-two>=1,<2"])
    monkeypatch.setattr(install, "_WITHOUT_DEPENDENCIES", "mper-test-two>=1,<2")


def wheel(folder: Path, name: str, version: str, needs: str = "") -> None:
    """An installable package that holds one module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as file:
        record = ""
        for path, text in files.items():
            file.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
        file.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


class Ended:
    """What an installation or a check said."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.done: list[Any] = []
        self.failed: list[str] = []
        self.steps: list[tuple[float | None, str]] = []

    def start(self, missing: install.MissingPackages, wheels: Path | None) -> install.Installation:
        return install.Installation(
            missing,
            wheels,
            self.log.append,
            lambda: self.done.append(True),
            self.failed.append,
            lambda *step: self.steps.append(step),
        )

    def __bool__(self) -> bool:
        return bool(self.done or self.failed)


def interrupted(folder: Path, *endings: str) -> list[Path]:
    """What is beside the packages when a deletion or an installation was interrupted."""
    paths = [folder.with_name(folder.name + ending) for ending in endings]
    for path in paths:
        (path / "torch").mkdir(parents=True)
    return paths


def missing_now(window: Any) -> install.MissingPackages:
    ended = Ended()
    install.check(ended.done.append, ended.failed.append)
    window.wait_until(lambda: ended, 30, "the check of packages")
    assert not ended.failed, ended.failed
    return ended.done[0]


def test_the_python_of_the_tests_lacks_nothing(window: Any) -> None:
    assert not missing_now(window)


def test_missing_and_outdated_packages_are_listed(window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "requirements", lambda: ["numpy>=1", "numpy>=9000", "mper-test-one>=1"])
    missing = missing_now(window)
    assert missing == install.MissingPackages(("numpy>=9000", "mper-test-one>=1"), False)
    assert "numpy, mper-test-one" in missing.details()
    assert str(settings.packagesFolder()) in missing.details()


def test_the_offer_says_how_much_is_downloaded_and_takes_the_build_for_the_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(install.sys, "platform", "linux")
    without = install.MissingPackages(("numpy>=1",), True)
    assert without.downloadMB <= 400
    assert without.build.index.endswith("/cpu")
    assert "about 400 MB of download (about 2 min at 50 Mbit/s)" in without.text()
    assert "works without one" in without.text()
    for line, index in (
        ("NVIDIA RTX A4000, 572.16, 8.6", "cu128"),
        ("Quadro P4000, 572.16, 6.1", "cu126"),  # the newest build has left out this generation
        ("NVIDIA RTX A4000, 535.104.05, 8.6", "cu126"),
        ("Quadro K4000, 470.10, 3.0", "cpu"),
        ("NVIDIA-SMI has failed", "cpu"),
    ):
        build = torch_build.TorchBuild.for_computer(torch_build.GraphicsCard.from_line(line), "linux")
        assert build.index.rpartition("/")[2] == index
        assert (build.download_mb > 1000) == (index != "cpu")
    card = torch_build.GraphicsCard("NVIDIA RTX A4000", 572.0, 8.6)
    text = install.MissingPackages(("numpy>=1",), True, card).text()
    assert "about 3.1 GB of download" in text
    assert "uses your graphics card (NVIDIA RTX A4000)" in text
    assert torch_build.TorchBuild.for_computer(None, "win32").index == ""  # pip's own index has no CUDA there


def test_a_python_for_intel_processors_on_macos_is_offered_no_installation_but_what_works(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch has no packages for it, and Slicer's own is one, also on Apple's processors."""
    pretended = 'import platform, sys\nsys.platform = "darwin"\nplatform.machine = lambda: "x86_64"\n'
    monkeypatch.setattr(install, "_CHECK", pretended + install._CHECK)
    monkeypatch.setattr(install, "requirements", lambda: ["numpy>=9000"])
    assert missing_now(window).installable, "PyTorch is there, for example of conda-forge"
    monkeypatch.setattr(install, "TORCH_NEEDED", "torch>=9000")
    missing = missing_now(window)
    assert not missing.installable
    monkeypatch.setattr(install, "check", lambda done, _failed: done(missing))
    monkeypatch.setattr(settings, "isSlicers", lambda _python: True)
    panel = window.open("MPERSegment")
    panel.installPanel.check()
    text = panel.ui.installLabel.text
    assert panel.ui.installFrame.visible and "MPER_PYTHON" in text and "Engine > Remote" in text
    assert not panel.ui.installButton.visible and not panel.ui.installFolderButton.visible


def test_the_offer_of_an_update_counts_what_is_installed_again(
    window: Any, folder: Path, two_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is made anew: all that it held is downloaded again."""
    monkeypatch.setattr(install.sys, "platform", "linux")
    card = torch_build.GraphicsCard("NVIDIA RTX A4000", 572.0, 8.6)
    update = install.MissingPackages(("mper-test-one>=1,<2",), False, card)
    assert update.downloadMB == 150 and "graphics card" not in update.text()
    (folder / "torch").mkdir(parents=True)
    assert "about 3.1 GB of download" in update.text() and "uses your graphics card" in update.text()
    assert install.MissingPackages((), True, card).downloadMB == update.downloadMB, "the packages with PyTorch"
    assert install.MissingPackages((), False, card).downloadMB == 0
    monkeypatch.setattr(install, "hasExtension", lambda: True)
    outdated = install.MissingPackages((), True, card)
    assert outdated.downloadMB == update.downloadMB and "by the PyTorch extension" not in outdated.text()
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=9_000_000_000))
    ended = Ended()
    ended.start(update, None)
    window.wait_until(lambda: ended, 10, "the installation")
    assert "the disk is full: 9.7 GB are needed" in ended.failed[0] and ended.log == []


def test_without_internet_the_installation_says_so_and_changes_nothing(
    window: Any, folder: Path, two_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # where nothing answers
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(install, "_RETRIES", "1")
    ended = Ended()
    ended.start(install.MissingPackages(("mper-test-one>=1,<2",), False), None)
    window.wait_until(lambda: ended, 60, "the installation")
    assert ended.failed[0].startswith("No connection to the internet; nothing was changed. Connect this computer")
    assert not folder.exists()
    assert not list(folder.parent.glob("*.download"))


def test_a_full_disk_is_seen_before_anything_is_downloaded(
    window: Any, folder: Path, two_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=200_000_000))
    ended = Ended()
    ended.start(install.MissingPackages(("mper-test-one>=1,<2",), False), None)
    window.wait_until(lambda: ended, 10, "the installation")
    assert "nothing was changed: the disk is full: 650 MB are needed" in ended.failed[0]
    assert ended.log == []


def test_the_bar_follows_what_pip_has_downloaded(window: Any, tmp_path: Path) -> None:
    steps: list[tuple[float | None, str]] = []
    progress = install_progress.DownloadProgress(tmp_path, 100, lambda *step: steps.append(step))
    progress.show()
    (tmp_path / "pip-unpack-1").mkdir()
    (tmp_path / "pip-unpack-1" / "scipy.whl").write_bytes(bytes(25_000_000))
    progress.show()
    progress.note("Installing collected packages: scipy")
    progress.show()
    assert steps == [
        (None, "Looking up what is needed"),
        (0.25, "Downloading: 25 of about 100 MB"),
        (None, "Unpacking"),
    ]


def test_packages_come_offline_into_their_own_folder(
    window: Any, folder: Path, two_packages: None, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheel(wheels, "mper-test-one", "1.5")
    wheel(wheels, "mper-test-two", "1.0", needs="mper-test-nowhere")
    remains, others = interrupted(folder, ".gone", ".gone2", ".old.gone1"), interrupted(folder, "2.gone", ".gone.mine")
    missing = missing_now(window)
    assert len(missing.packages) == 2
    ended = Ended()
    ended.start(missing, wheels)
    window.wait_until(lambda: ended, 60, "the installation")
    assert ended.failed == []
    assert (folder / "mper_test_one.py").is_file() and (folder / "mper_test_two.py").is_file()
    assert any("mper-test-one" in line for line in ended.log)
    assert ended.steps[-1] == (None, "Checking")
    assert not missing_now(window)
    window.wait_until(lambda: not any(path.exists() for path in remains), 30, "the remains of before to be deleted")
    interrupted(folder, ".gone", ".download", ".old")
    install.uninstall()
    assert not folder.exists()
    window.wait_until(lambda: {*folder.parent.glob("p*")} == {*others}, 30, "all but others' folders to be deleted")
    assert len(missing_now(window).packages) == 2


def test_a_failed_installation_says_what_to_do_and_changes_nothing(
    window: Any, folder: Path, two_packages: None, tmp_path: Path
) -> None:
    folder.mkdir(parents=True)
    (folder / "before.py").write_text("")
    wheels = tmp_path / "wheels"
    wheel(wheels, "mper-test-one", "1.5")
    ended = Ended()
    ended.start(install.MissingPackages(("mper-test-one>=1,<2",), False), wheels)
    window.wait_until(lambda: ended, 60, "the installation")
    assert ended.done == []
    assert ended.failed[0].startswith("The installation failed; nothing was changed: ")
    assert "mper-test-two" in ended.failed[0]
    assert f"Check that the folder {wheels} holds wheels" in ended.failed[0]
    assert [path.name for path in folder.iterdir()] == ["before.py"]
    assert not folder.with_name(folder.name + ".part").exists()


def test_packages_that_cannot_take_their_place_leave_those_of_before(
    window: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = folder.with_name(folder.name + ".part")
    folder.mkdir(parents=True)
    (folder / "before.py").write_text("")
    part.mkdir()
    rename, refused = Path.rename, (part,)

    def renamed(path: Path, target: Path) -> Path:
        if path in refused:
            raise PermissionError("used by another program")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(install, "_SWAP_TRIES", 0)
    ended = Ended()
    assert not ended.start(install.MissingPackages((), False), None)._swap()
    window.events()
    assert "nothing was changed" in ended.failed[0] and f"the folder {folder} is in use" in ended.failed[0]
    assert [path.name for path in folder.iterdir()] == ["before.py"]

    old = folder.with_name(folder.name + ".old")
    refused = (part, old)
    ended = Ended()
    assert not ended.start(install.MissingPackages((), False), None)._swap()
    window.events()
    assert ended.failed and "nothing was changed" not in ended.failed[0]
    assert [path.name for path in old.iterdir()] == ["before.py"], "the only ones that are left"
    refused = (part,)
    assert not ended.start(install.MissingPackages((), False), None)._swap()
    assert [path.name for path in folder.iterdir()] == ["before.py"], "put back by the next installation"


@pytest.mark.parametrize("cancelled", [False, True])
def test_packages_wait_for_a_virus_scanner_and_then_take_their_place(
    window: Any, folder: Path, two_packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """Windows refuses to rename a folder while the new files in it are read."""
    part, rename, refused = folder.with_name(folder.name + ".part"), Path.rename, []

    def renamed(path: Path, target: Path) -> Path:
        if path == part and target == folder and (cancelled or len(refused) < 3):
            refused.append(path)
            raise PermissionError(13, "access is denied")
        return rename(path, target)

    folder.mkdir(parents=True)
    (folder / "before.py").write_text("")
    wheel(tmp_path / "wheels", "mper-test-one", "1.5")
    wheel(tmp_path / "wheels", "mper-test-two", "1.0")
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(install, "_SWAP_AGAIN_MS", 20)
    ended = Ended()
    running = ended.start(install.MissingPackages(("mper-test-one>=1,<2",), False), tmp_path / "wheels")
    window.wait_until(lambda: ended or (cancelled and refused), 60, "the installation")
    if cancelled:
        running.stop()
        assert [path.name for path in folder.iterdir()] == ["before.py"] and not ended and not part.exists()
    else:
        assert ended.failed == [] and len(refused) == 3
        assert (folder / "mper_test_one.py").is_file() and not (folder / "before.py").exists()


def test_cancelled_installation_leaves_nothing(window: Any, folder: Path, two_packages: None, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "mper-test-one", "1.5")
    ended = Ended()
    running = ended.start(install.MissingPackages(("mper-test-one>=1,<2",), False), tmp_path / "wheels")
    window.wait_until(lambda: ended.log, 30, "pip")
    running.stop()
    window.events()
    assert not ended
    assert not folder.exists()


def test_a_python_of_the_users_own_is_left_to_the_user(window: Any, two_packages: None, tmp_path: Path) -> None:
    ended = Ended()
    ended.start(install.MissingPackages(("mper-test-one>=1,<2",), False), tmp_path)
    window.wait_until(lambda: ended, 10)
    assert "which you chose; install mper there" in ended.failed[0]


def test_extension_installs_torch_where_it_is(
    window: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "PyTorchUtils.py").write_text(
        "asked = []\nclass PyTorchUtilsLogic:\n    def installTorch(self, **wishes):\n        asked.append(wishes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    missing = install.MissingPackages((), True)
    assert "by the PyTorch extension, which asks" in missing.text()
    ended = Ended()
    ended.start(missing, None)
    window.wait_until(lambda: ended, 30)
    import PyTorchUtils

    wishes = {"askConfirmation": True, "forceComputationBackend": None, "torchVersionRequirement": ">=2.8,<2.13"}
    assert PyTorchUtils.asked == [wishes]
    assert not folder.exists()
    assert ended.failed == []


def test_terms_that_limit_the_use_of_a_model_are_acknowledged_once_and_again_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from MPERLib import licences

    asked: list[str] = []
    answers = iter([False, True, True])
    monkeypatch.setattr(licences, "agreed", lambda text, _title: asked.append(text) or next(answers))
    terms = "Code Apache-2.0; weights: treat as CC BY-NC-SA 4.0, see DATA_LICENSES.md."
    model = {"id": "acdc", "name": "acdc", "title": "Ventricles", "card": {"licence": terms}}
    assert [licences.acknowledged(model) for _ in range(3)] == [False, True, True]
    assert len(asked) == 2
    assert "'Ventricles'" in asked[1] and terms in asked[1]
    model["card"] = {"licence": "for research and teaching, with citation"}
    assert licences.acknowledged(model) and len(asked) == 3
    for free in ("", "Apache-2.0", "CC BY 4.0", "CC0 1.0"):
        assert licences.acknowledged({"id": "own", "card": {"licence": free}})
    assert len(asked) == 3


def test_nothing_is_segmented_before_the_terms_are_acknowledged(
    window: Any, shared_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = mrml.show_scan(np.zeros((4, 5, 6), np.int16), np.eye(4), "scan", slicer.mrmlScene)
    panel = window.open("MPERSegment")
    window.wait_until(lambda: panel.ui.segmentButton.enabled, 60, "the engine")
    asked: list[str] = []
    monkeypatch.setattr("MPERLib.licences.agreed", lambda text, _title: bool(asked.append(text)))
    window.click(panel.ui.segmentButton)
    assert "research and teaching" in asked[0]
    assert panel.ui.messageLabel.text == "Nothing was segmented: the terms of use of the model are not acknowledged."
    assert not panel.segmentPanel.running
    del scan
