"""The engine's packages: what is missing is seen, and comes into a folder of its own or not at all."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from MPERLib import install, settings


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

    def start(self, missing: install.MissingPackages, wheels: Path) -> install.Installation:
        return install.Installation(
            missing, wheels, self.log.append, lambda: self.done.append(True), self.failed.append
        )

    def __bool__(self) -> bool:
        return bool(self.done or self.failed)


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
    assert "numpy, mper-test-one" in missing.text()
    assert str(settings.packagesFolder()) in missing.text()


def test_packages_come_offline_into_their_own_folder(
    window: Any, folder: Path, two_packages: None, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheel(wheels, "mper-test-one", "1.5")
    wheel(wheels, "mper-test-two", "1.0", needs="mper-test-nowhere")
    missing = missing_now(window)
    assert len(missing.packages) == 2
    ended = Ended()
    ended.start(missing, wheels)
    window.wait_until(lambda: ended, 60, "the installation")
    assert ended.failed == []
    assert (folder / "mper_test_one.py").is_file() and (folder / "mper_test_two.py").is_file()
    assert any("mper-test-one" in line for line in ended.log)
    assert not missing_now(window)
    install.uninstall()
    assert not folder.exists()
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
    assert ended.failed[0].startswith("The installation failed: ")
    assert "mper-test-two" in ended.failed[0]
    assert f"Check that the folder {wheels} holds wheels" in ended.failed[0]
    assert [path.name for path in folder.iterdir()] == ["before.py"]
    assert not folder.with_name(folder.name + ".part").exists()


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
    install.Installation(missing, None, ended.log.append, lambda: ended.done.append(True), ended.failed.append)
    window.wait_until(lambda: ended, 30)
    import PyTorchUtils

    wishes = {"askConfirmation": True, "forceComputationBackend": None, "torchVersionRequirement": ">=2.8,<2.13"}
    assert PyTorchUtils.asked == [wishes]
    assert not folder.exists()
    assert ended.failed == []
