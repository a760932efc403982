"""`nvidia-smi` on a host: the calls that gateways make, in NVIDIA's words."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.hardware import model_of
from simulator.laws import mig
from simulator.laws.mig import MigError
from simulator.world import GpuCard, Host, World

__all__ = ["Output", "gpu_uuid", "nvidia_smi"]

_NOT_AVAILABLE = "[N/A]"


@dataclass(frozen=True, slots=True)
class Output:
    """What a command printed, and its exit status."""

    stdout: str
    status: int = 0
    stderr: str = ""


class _Usage(Exception):
    """The arguments are wrong; the message is what nvidia-smi prints."""


def nvidia_smi(world: World, host: Host, arguments: list[str]) -> Output:
    """Run it with these arguments. The driver must run: without it there is no such program."""
    try:
        return _run(world, host, arguments)
    except _Usage as wrong:
        return Output(f'{wrong}\nInvalid combination of input arguments. Please run "nvidia-smi -h" for help.\n', 2)


def _run(world: World, host: Host, arguments: list[str]) -> Output:
    options, rest = _parsed(arguments)
    if rest:
        raise _Usage(f"ERROR: Option {rest[0]} is not recognized.")
    cards = _chosen(host, options.get("-i"))
    if "-mig" in options:
        if options["-mig"] not in ("0", "1"):
            raise _Usage(f"Invalid MIG mode {options['-mig']!r}: use 0 or 1.")
        return _set_mig(world, host, cards, options["-mig"] == "1")
    if "-r" in options:
        return _reset(world, host, cards)
    if "--query-gpu" in options:
        return _query(host, cards, options["--query-gpu"].split(","), options.get("--format", ""))
    if "-L" in options:
        return Output("".join(f"GPU {_index(host, card)}: {_product(host, card)} (UUID: {gpu_uuid(host, card)})\n"
                              for card in cards))  # fmt: skip
    return Output(_details(host, cards) if "-q" in options else _table(host, cards))


_WITH_VALUE = {"-i": "-i", "--id": "-i", "-mig": "-mig", "--multi-instance-gpu": "-mig", "--query-gpu": "--query-gpu",
               "--format": "--format"}  # fmt: skip
_ALONE = {"-q": "-q", "--query": "-q", "-r": "-r", "--gpu-reset": "-r", "-L": "-L", "--list-gpus": "-L"}


def _parsed(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options under one name each, and what is none."""
    options: dict[str, str] = {}
    unknown: list[str] = []
    waiting = list(arguments)
    while waiting:
        name, has_value, value = waiting.pop(0).partition("=")
        if name in _ALONE and not has_value:
            options[_ALONE[name]] = ""
        elif name in _WITH_VALUE:
            if not has_value and not waiting:
                raise _Usage(f"ERROR: Option {name} requires a value.")
            options[_WITH_VALUE[name]] = value if has_value else waiting.pop(0)
        else:
            unknown.append(name)
    return options, unknown


def _bus_id(card: GpuCard) -> str:
    return f"0000{card.pci_id.upper()}"


def _index(host: Host, card: GpuCard) -> int:
    return mig.visible(host).index(card)


def _product(host: Host, card: GpuCard) -> str:
    return model_of(host.pci[card.pci_id]).product


def gpu_uuid(host: Host, card: GpuCard) -> str:
    return f"GPU-{host.uuid[:24]}{card.pci_id.replace(':', '').replace('.', '').rjust(12, '0')}"


def _driver(host: Host) -> str:
    return next(vib.version.partition("-")[0] for vib in host.running_vibs if vib.provides_vgpu)


def _chosen(host: Host, wanted: str | None) -> list[GpuCard]:
    """All cards, or that of an index, a bus id or a UUID."""
    cards = mig.visible(host)
    if wanted is None:
        return cards
    for index, card in enumerate(cards):
        if wanted in (str(index), gpu_uuid(host, card)) or wanted.upper() in (_bus_id(card), card.pci_id.upper()):
            return [card]
    raise _Usage(f"No devices were found: there is no GPU {wanted}.")


def _set_mig(world: World, host: Host, cards: list[GpuCard], on: bool) -> Output:
    word = "Enabled" if on else "Disabled"
    text = ""
    for card in cards:
        try:
            in_force = mig.set_mode(world, host, card, on)
        except MigError as refused:
            text += f"Unable to {'enable' if on else 'disable'} MIG Mode for GPU {_bus_id(card)}: {refused}\n"
            return Output(text + "Terminating early due to previous errors.\n", refused.status)
        if not in_force:
            text += (
                f"Warning: MIG mode is in pending {'enable' if on else 'disable'} state for GPU {_bus_id(card)}: "
                "reset the GPU or reboot the system to make MIG mode effective.\n"
            )
        text += f"{word} MIG Mode for GPU {_bus_id(card)}\n"
    return Output(text + "All done.\n")


def _reset(world: World, host: Host, cards: list[GpuCard]) -> Output:
    text = ""
    for card in cards:
        try:
            mig.reset(world, host, card)
        except MigError as refused:
            return Output(text + f"GPU Reset couldn't run because GPU {_bus_id(card)} is: {refused}\n", refused.status)
        text += f"GPU {_bus_id(card)} was successfully reset.\n"
    return Output(text + "All done.\n")


def _mode(host: Host, card: GpuCard, on: bool) -> str:
    if not model_of(host.pci[card.pci_id]).mig:
        return _NOT_AVAILABLE
    return "Enabled" if on else "Disabled"


def _fields(host: Host, card: GpuCard) -> dict[str, str]:
    return {
        "index": str(_index(host, card)),
        "pci.bus_id": _bus_id(card),
        "gpu_bus_id": _bus_id(card),
        "name": _product(host, card),
        "uuid": gpu_uuid(host, card),
        "driver_version": _driver(host),
        "memory.total": f"{card.framebuffer_mib} MiB",
        "mig.mode.current": _mode(host, card, card.mig),
        "mig.mode.pending": _mode(host, card, card.mig_pending),
    }


def _query(host: Host, cards: list[GpuCard], wanted: list[str], form: str) -> Output:
    forms = form.split(",")
    if forms[0] != "csv":
        raise _Usage("ERROR: --query-gpu requires --format=csv.")
    names = [name.strip() for name in wanted]
    lines = [] if "noheader" in forms else [", ".join(names)]
    for card in cards:
        fields = _fields(host, card)
        for name in names:
            if name not in fields:
                raise _Usage(f'Field "{name}" is not a valid field to query.')
        lines.append(", ".join(fields[name] for name in names))
    return Output("".join(f"{line}\n" for line in lines))


def _details(host: Host, cards: list[GpuCard]) -> str:
    lines = ["", "==============NVSMI LOG==============", ""]
    lines += [_line("Driver Version", _driver(host)), _line("Attached GPUs", str(len(cards)))]
    for card in cards:
        fields = _fields(host, card)
        lines += [
            f"GPU {_bus_id(card)}",
            "    " + _line("Product Name", fields["name"]),
            "    MIG Mode",
            "        " + _line("Current", fields["mig.mode.current"].strip("[]")),
            "        " + _line("Pending", fields["mig.mode.pending"].strip("[]")),
            "    " + _line("GPU UUID", fields["uuid"]),
            "    FB Memory Usage",
            "        " + _line("Total", fields["memory.total"]),
        ]
    return "\n".join(lines) + "\n"


def _line(name: str, value: str) -> str:
    return f"{name:<34}: {value}"


def _table(host: Host, cards: list[GpuCard]) -> str:
    rule = "+" + "-" * 77 + "+"
    head = f"| NVIDIA-SMI {_driver(host):<22} Driver Version: {_driver(host):<22}"
    lines = [rule, f"{head:<78}|", rule]
    for card in cards:
        shown = f"| {_index(host, card):>3}  {_product(host, card):<28} {_bus_id(card)}   {card.framebuffer_mib}MiB"
        lines.append(f"{shown:<68}{_mode(host, card, card.mig):>9} |")
    return "\n".join([*lines, rule]) + "\n"
