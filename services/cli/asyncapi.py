"""The verb `asyncapi`: the description of the facts' subjects and messages, as JSON."""

import json

import typer


def asyncapi() -> None:
    """Print the AsyncAPI document of what subscribers can follow (docs/asyncapi.json)."""
    from services.asyncapi import document

    typer.echo(json.dumps(document(), indent=2, ensure_ascii=False))
