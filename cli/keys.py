"""`gpuwright keys`: the keys that approvals are signed with."""

from pathlib import Path
from typing import Annotated

import typer

from cli.output import Json, print_json, say
from workers.keys import new_key

__all__ = ["keys"]

keys = typer.Typer(help="The keys that approvals are signed with.", no_args_is_help=True)


@keys.callback()
def _keys() -> None:
    """The keys that approvals are signed with."""


@keys.command()
def new(
    private_file: Annotated[Path, typer.Argument(help="File for the private key; the public one gets '.pub' added.")],
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key pair.

    Keep the private key where approvals are signed; name the public key in 'approvals.trusted_key_files'.
    """
    public_file = private_file.with_name(private_file.name + ".pub")
    key_id = new_key(private_file, public_file)
    if as_json:
        print_json({"key_id": key_id, "private_file": str(private_file), "public_file": str(public_file)})
    else:
        say(f"key {key_id}\nprivate: {private_file}\npublic:  {public_file}")
