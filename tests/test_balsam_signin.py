"""Signing in to a real Balsam service; tokens stay where they belong."""

from __future__ import annotations

import datetime
import logging
import pickle
import pty
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from balsam_jupyter import cli
from balsam_jupyter.engines.balsam import signin
from balsam_jupyter.errors import NoAnswer, NotSignedIn, ServiceError

from .balsam_service import proxy as faults
from .balsam_service.proxy import Answer, Forward, Proxy, Request
from .balsam_service.run import ENVIRONMENT, ROOT
from .balsam_service.service import Service


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token is to be, for this test."""
    path = tmp_path / "home" / "client.yml"
    monkeypatch.setenv("BALSAM_CLIENT_PATH", str(path))
    return path


def login(*words: str, typed: str = "", code: int = 0) -> Result:
    result = CliRunner().invoke(cli.main, ["login", *words], input=typed)
    assert result.exit_code == code, result.output
    return result


def signed_in(service: Service) -> Result:
    return login(service.url, "--user", service.user, "--password-stdin", typed=service.password + "\n")


def test_login_writes_what_balsam_reads(balsam_service: Service, file: Path) -> None:
    said = signed_in(balsam_service)
    assert f"Signed in to {balsam_service.url} as tester until " in said.output
    found = signin.read()
    assert found.api_root == balsam_service.url
    assert found.expires and 47 * 3600 < found.expires - time.time() < 49 * 3600
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [one.name for one in file.parent.iterdir()] == ["client.yml"]
    code = "from balsam.config import ClientSettings; c = ClientSettings.load_from_file().build_client();"
    code += "print(len(c.Site.objects.all()) >= 0, c.expires_in.days)"
    environment = {"BALSAM_CLIENT_PATH": str(file), "PATH": "/usr/bin:/bin"}
    balsam = subprocess.run([ENVIRONMENT / "bin/python", "-c", code], env=environment, capture_output=True, text=True)
    assert balsam.stdout.split() == ["True", "1"], balsam.stderr
    with balsam_service.client() as client:
        client.headers["Authorization"] = f"Bearer {found.token}"
        assert client.get("/sites/").is_success


def test_login_at_a_terminal_shows_no_password(balsam_service: Service, file: Path) -> None:
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "balsam_jupyter.cli", "login", balsam_service.url]
    process = subprocess.Popen(command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal)
    shown = b""
    for asked, answer in ((b"User", balsam_service.user), (b"Password: ", balsam_service.password)):
        while asked not in shown:
            shown += os_read(controller)
        pty.os.write(controller, answer.encode() + b"\n")
    while b"Signed in" not in shown:
        shown += os_read(controller)
    assert process.wait(30) == 0
    assert balsam_service.password.encode() not in shown
    assert signin.read().token.encode() not in shown


def os_read(terminal: int) -> bytes:
    return pty.os.read(terminal, 1000)


def test_signing_in_again_keeps_the_rest_of_the_file(balsam_service: Service, file: Path) -> None:
    balsam_service.write_client_file(file, valid_s=-10)
    file.write_text(file.read_text() + "color: blue\nread_timeout: 7.5\n")
    file.chmod(0o644)
    with pytest.raises(NotSignedIn, match=f"expired on .* balsam-jupyter login {balsam_service.url}"):
        signin.read()
    login("-u", balsam_service.user, "--password-stdin", typed=balsam_service.password)  # the service it knows
    assert signin.read().api_root == balsam_service.url
    content = yaml.safe_load(file.read_text())
    assert (content["color"], content["read_timeout"]) == ("blue", 7.5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_link_stays_a_link(balsam_service: Service, file: Path, tmp_path: Path) -> None:
    real = tmp_path / "real.yml"
    file.parent.mkdir()
    file.symlink_to(real)
    signed_in(balsam_service)
    assert file.is_symlink()
    assert real.is_file()


def test_wrong_password(balsam_service: Service, file: Path) -> None:
    for user, password in ((balsam_service.user, "wrong"), ("nobody", balsam_service.password)):
        said = login(balsam_service.url, "-u", user, "--password-stdin", typed=password, code=1)
        assert said.output == f"Error: {balsam_service.url} does not know this user and password.\n"
    assert not file.exists()


def test_mistakes(balsam_service: Service, file: Path) -> None:
    for words, code, what in [
        ([], 2, "Which service? balsam-jupyter login URL"),
        (["balsam.example.org"], 2, "'balsam.example.org' is no address of a service"),
        (["https://ada:secret@balsam.example.org"], 2, "Write the address alone"),
        ([balsam_service.url, "--password-stdin"], 2, "name the user"),
        (["http://127.0.0.1:port"], 2, "'http://127.0.0.1:port' is no address of a service"),
        (["http://[::1"], 2, "is no address of a service"),
        (["http://balsam..org"], 2, "is no address of a service"),
        (["http://127.0.0.1:9"], 1, "http://127.0.0.1:9 does not answer"),
        ([balsam_service.url + "/nowhere"], 1, "is no Balsam service"),
    ]:
        said = login(*words, code=code).output
        assert what in said
        assert "secret" not in said
        assert len(said.splitlines()) <= 2


def test_a_token_that_cannot_be_kept(balsam_service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("/proc/nowhere/client.yml", "/dev/null/client.yml", "~nobody-of-that-name/client.yml"):
        monkeypatch.setenv("BALSAM_CLIENT_PATH", path)
        words = [balsam_service.url, "-u", balsam_service.user, "--password-stdin"]
        said = login(*words, typed=balsam_service.password, code=1).output
        assert said.startswith(f"Error: {path}")
        assert len(said.splitlines()) == 1


def test_odd_passwords(balsam_service: Service, file: Path) -> None:
    words = ["login", balsam_service.url, "-u", balsam_service.user, "--password-stdin"]
    for typed, code, what in [(b"", 1, "does not know this user"), (b"\xff\n", 2, "is no password")]:
        result = CliRunner().invoke(cli.main, words, input=typed)
        assert (result.exit_code, what in result.output) == (code, True), result.output


def test_a_service_that_has_moved(proxy: Proxy, file: Path) -> None:
    """Neither password nor token follows."""

    async def moved(request: Request, forward: Forward) -> Answer:
        return Answer(301, {"location": f"https://balsam.example.org{request.target}"}, b"")

    with proxy.spoil(faults.every(1, moved)):
        said = login(proxy.url, "-u", "ada", "--password-stdin", typed="x", code=1).output
    assert f"{proxy.url} is elsewhere now (https://balsam.example.org)" in said


BAD_FILES = {
    "empty": "",
    "no mapping": "- token",
    "no token": "api_root: http://127.0.0.1:1\ntoken: null\n",
    "no address": "token: s3cret\n",
    "strange token": 'api_root: http://127.0.0.1:1\ntoken: "s3cret\\nX-Admin: 1"\n',
    "strange expiry": "api_root: http://127.0.0.1:1\ntoken: s3cret\ntoken_expiry: soon\n",
    "broken": "api_root: [http://127.0.0.1:1\ntoken: s3cret\n",
    "password in the address": "api_root: http://ada:s3cret@127.0.0.1:1\ntoken: abc\n",
    "strange port": "api_root: http://127.0.0.1:port\ntoken: s3cret\n",
    "strange host": "api_root: http://balsam..org\ntoken: s3cret\n",
    "deep": "[" * 5000,
    "not text": "\udcff\udcfe",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_told_but_not_shown(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(NotSignedIn) as caught:
        signin.read()
    assert str(file) in str(caught.value)
    assert "balsam-jupyter login URL" in str(caught.value)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in repr(error)
        error = error.__cause__


def test_no_file(file: Path) -> None:
    with pytest.raises(NotSignedIn, match=r"You are not signed in .* balsam-jupyter login URL"):
        signin.read()
    file.mkdir(parents=True)
    with pytest.raises(NotSignedIn, match="cannot be read"):
        signin.read()


def test_a_token_that_expired_long_ago(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("api_root: http://127.0.0.1:1\ntoken: abc\ntoken_expiry: 0001-01-01 00:00:00\n")
    with pytest.raises(NotSignedIn, match="expired on"):
        signin.read()


@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
def test_expiry_is_utc_unless_it_says_otherwise(file: Path, zone: str) -> None:
    file.parent.mkdir()
    file.write_text(f"api_root: http://127.0.0.1:1\ntoken: abc\ntoken_expiry: 2100-01-01T12:00:00{zone}\n")
    hours = 10 if zone == "+02:00" else 12
    assert signin.read().expires == datetime.datetime(2100, 1, 1, hours, tzinfo=datetime.timezone.utc).timestamp()


def test_a_new_token_is_seen_at_once(balsam_service: Service, file: Path) -> None:
    tokens = set()
    for seconds in (100, 200, 300):
        balsam_service.write_client_file(file, valid_s=seconds)
        tokens.add(signin.read().token)
    assert len(tokens) == 3


def test_tokens_are_not_shown_logged_or_pickled(
    balsam_service: Service, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = signed_in(balsam_service)
    found = signin.read()
    shown: list[Any] = [repr(found), str(found), f"{found}", found.refused(), said.output]
    assert not [text for text in [*shown, caplog.text] if found.token in text or balsam_service.password in text]
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(found)


def test_a_service_that_does_not_answer(file: Path) -> None:
    with pytest.raises(NoAnswer, match=r"http://127\.0\.0\.1:9 does not answer"):
        signin.sign_in("http://127.0.0.1:9", "ada", "x")
    with pytest.raises((ServiceError, NoAnswer)):
        signin.takes_passwords("http://127.0.0.1:9")
