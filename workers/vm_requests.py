"""What requests for GPU VMs name that their model cannot know, wherever they are written: pure, on raw YAML data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planning.gpu_models import model_names, models_named
from workers.settings import Settings
from workers.yaml_document import Key, Problem, did_you_mean

__all__ = ["Known", "known_to", "name_kinds", "unknown_names"]


@dataclass(frozen=True)
class Known:
    """What requests name of the configuration."""

    vcenters: Sequence[str]
    credentials: Sequence[str] = ()
    """Entries of `guest_credentials`."""
    cloud_init: Sequence[str] = ()


def known_to(settings: Settings) -> Known:
    """What requests may name where these are the settings."""
    return Known(
        [vcenter.name for vcenter in settings.vcenters], list(settings.guest_credentials), list(settings.cloud_init)
    )


def name_kinds(request: dict[str, Any]) -> None:
    """`kind` where a file leaves it out: `profile` says vGPU, `sbdf` says static, anything else is dynamic."""
    gpus = request.get("gpus")
    for gpu in gpus if isinstance(gpus, list) else ():
        if isinstance(gpu, dict) and "kind" not in gpu:
            gpu["kind"] = "vgpu" if "profile" in gpu else "static" if "sbdf" in gpu else "dynamic"


def unknown_names(
    request: Mapping[str, Any], problem: Callable[[Key, str], Problem], known: Known | None
) -> Iterator[Problem]:
    """Names in a request that nothing has: of GPU models, and of entries of the configuration where that is `known`.

    Works on raw data, because other fields may be wrong at the same time; `problem` makes one of the value at a key.
    """
    entries: tuple[tuple[Key, str, Sequence[str]], ...] = ()
    if known is not None:
        entries = (
            (("vcenter",), "vCenter", known.vcenters),
            (("driver", "credentials"), "'guest_credentials' entry", known.credentials),
            (("customization", "cloud_init", "user_data"), "'cloud_init' entry", known.cloud_init),
        )
    for key, what, there in entries:
        named: Any = request
        for part in key:
            named = named.get(part) if isinstance(named, Mapping) else None
        if isinstance(named, str) and named not in there:
            yield problem(
                key,
                f"there is no {what} {named!r} in the configuration; {did_you_mean(named, there)}"
                f"it has: {', '.join(there) or 'none'}",
            )
    gpus = request.get("gpus")
    for index, gpu in enumerate(gpus if isinstance(gpus, list) else ()):
        model = gpu.get("model") if isinstance(gpu, Mapping) else None
        if isinstance(model, str) and not models_named(model):
            models = model_names()
            yield problem(
                ("gpus", index, "model"),
                f"no GPU model is called {model!r}; {did_you_mean(model, models)}name it by vendor:device "
                f"('match'), or as one of: {', '.join(models)}",
            )
