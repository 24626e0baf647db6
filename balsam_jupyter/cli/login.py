"""``login``."""

from __future__ import annotations

import getpass
import sys
from datetime import datetime

import click

from .common import Shown, shows


@click.command()
@click.argument("url", required=False)
@click.option("-u", "--user", help="Your name there; by default it is asked for.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, for scripts.")
@shows
def login(url: str | None, user: str | None, password_stdin: bool) -> Shown:
    """Sign in to the Balsam service at URL with a password, and keep its token.

    Without URL: to the service that you were signed in to last. The token is kept where Balsam keeps it, in
    ~/.balsam/client.yml (or what BALSAM_CLIENT_PATH names), readable for you alone. Kernels that run use it at once. A
    service that has other ways to sign in needs Balsam's own `balsam login`, whose token is used here as well.
    """
    from ..engines.balsam import signin
    from ..errors import BadInput

    given = url or signin.known_address()
    if given is None:
        raise BadInput("Which service? balsam-jupyter login URL")
    if password_stdin and not user:
        raise BadInput("With --password-stdin name the user: --user NAME.")
    root = signin.address(given)
    signin.takes_passwords(root)
    if signin.is_open(root):
        click.echo(f"Warning: {root} has no encryption: others on the way can read the password.", err=True)
    name = user or click.prompt("User", default=_user(), err=True)
    password = _piped() if password_stdin else click.prompt("Password", hide_input=True, err=True)
    found = signin.sign_in(root, name, password)
    file = str(signin.client_file())
    until = None if found.expires is None else datetime.fromtimestamp(found.expires).isoformat(" ", "minutes")
    line = f"Signed in to {root} as {name}" + (f" until {until}." if until else ".")
    return Shown({"service": root, "user": name, "expires": until, "file": file}, lines=[line])


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in many a container nobody has a name
        return None


def _piped() -> str:
    from ..errors import BadInput

    try:
        return sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadInput("What is on standard input is no password: it is not UTF-8.") from None
