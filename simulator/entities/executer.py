"""The managed method executer, through which vCenter lets clients run esxcli on a host."""

from __future__ import annotations

import inspect
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from pyVmomi import vmodl

from simulator import esxcli_types
from simulator.core import Call, Managed, method
from simulator.laws.cli import Answer, CliFault, Command
from simulator.laws.esxcli import COMMANDS
from simulator.laws.passthrough import require_connected
from simulator.world import Host, World

__all__ = ["DynamicTypeManagerEntity", "ManagedMethodExecuterEntity"]

_CLI_INFO = "ha-dynamic-type-manager-local-cli-cliinfo"
_NAMESPACES = 'xmlns="urn:vim25" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


class DynamicTypeManagerEntity(Managed):
    vim_type = esxcli_types.DynamicTypeManager

    def __init__(self, world: World, host: Host) -> None:
        super().__init__(world.registry, f"DynamicTypeManager-{host.moid.removeprefix('host-')}")

    @method("DynamicTypeMgrQueryMoInstances")
    def query_mo_instances(self, call: Call, filterSpec: Any = None) -> list[Any]:
        """The command handlers; the filter's `id` and `typeSubstr` narrow the list."""
        wanted_id, part = getattr(filterSpec, "id", None), getattr(filterSpec, "typeSubstr", None)
        return [
            esxcli_types.MoInstance(id=moid, moType=kind)
            for moid, kind in sorted({(_handler(path), f"vim.EsxCLI.{_namespace(path)}") for path in COMMANDS})
            if wanted_id in (None, moid) and (not part or part in kind)
        ]


def _namespace(path: str) -> str:
    return path.rpartition(".")[0]


def _handler(path: str) -> str:
    return "ha-cli-handler-" + _namespace(path).replace(".", "-")


class ManagedMethodExecuterEntity(Managed):
    vim_type = esxcli_types.ManagedMethodExecuter

    def __init__(self, world: World, host: Host) -> None:
        super().__init__(world.registry, f"ManagedMethodExecuter-{host.moid.removeprefix('host-')}")
        self.world = world
        self.host = host

    @method("ExecuteSoap")
    async def execute_soap(
        self, call: Call, moid: str, version: str, method: str, argument: list[Any] | None = None
    ) -> Any:
        """Run `vim.EsxCLI.<namespace>.<command>` or `vim.CLIInfo.FetchCLIInfo`; failures travel in `fault`."""
        require_connected(self.world, self.host)
        try:
            values = dict(_value(item) for item in argument or [])
            if moid == _CLI_INFO and method == "vim.CLIInfo.FetchCLIInfo":
                return esxcli_types.SoapResult(response=_cli_info(values.get("typeName", "")))
            command = COMMANDS.get(method.removeprefix("vim.EsxCLI."))
            if command is None or moid != _handler(command.path):
                return _fault("vmodl.fault.NotFound", f"There is no esxcli command {method} at {moid}.")
            unknown = sorted(values.keys() - {parameter.name for parameter in command.parameters})
            if unknown:
                raise CliFault(f"Invalid option {unknown[0]}")
            answer = command.run(self.world, self.host, values)
            shown = await answer if inspect.isawaitable(answer) else answer
            return esxcli_types.SoapResult(response=_response(command, shown))
        except CliFault as failed:
            return _fault("EsxCLI.CLIFault.summary", str(failed))


def _value(argument: Any) -> tuple[str, str]:
    """An argument's `val` is an element that is called like the argument; its text is the value."""
    try:
        element = ElementTree.fromstring(argument.val)  # noqa: S314 - what a client of the simulator sends is trusted
    except ElementTree.ParseError as broken:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="argument", msg=f"The value of {argument.name} is no XML element: {argument.val}"
        ) from broken
    return argument.name, element.text or ""


def _fault(message: str, detail: str) -> Any:
    xml = (
        f'<LocalizedMethodFault {_NAMESPACES}><fault xsi:type="VimEsxCLICLIFault"><errMsg>{escape(detail)}</errMsg>'
        f"</fault><localizedMessage>{escape(message)}</localizedMessage></LocalizedMethodFault>"
    )
    return esxcli_types.SoapResult(fault=esxcli_types.SoapFault(faultMsg=message, faultDetail=xml))


def _response(command: Command, answer: Answer) -> str:
    """The answer as esxcli's XML: an array of rows, one row, a string, or `true` for a command that shows nothing."""
    if answer is None:
        return f'<obj {_NAMESPACES} xsi:type="xsd:boolean">true</obj>'
    if isinstance(answer, str):
        return f'<obj {_NAMESPACES} xsi:type="xsd:string">{escape(answer)}</obj>'
    kind = "VimEsxCLI" + command.path.replace(".", "") + command.kind
    if isinstance(answer, dict):
        return f'<obj {_NAMESPACES} xsi:type="{kind}">{_fields(answer)}</obj>'
    rows = "".join(f'<DataObject xsi:type="{kind}">{_fields(row)}</DataObject>' for row in answer)
    return f'<obj {_NAMESPACES} xsi:type="ArrayOfDataObject">{rows}</obj>'


def _fields(row: dict[str, Any]) -> str:
    return "".join(f"<{name}>{escape(_text(value))}</{name}>" for name, value in row.items())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cli_info(type_name: str) -> str:
    """What the commands of a namespace are called and take, as clients need to parse a command line."""
    namespace = type_name.removeprefix("vim.EsxCLI.")
    commands = [command for command in COMMANDS.values() if _namespace(command.path) == namespace]
    if not commands:
        raise CliFault(f"Unknown command or namespace {namespace.replace('.', ' ')}")
    methods = ""
    for command in commands:
        name = command.path.rpartition(".")[2]
        parameters = "".join(
            f"<param><name>{parameter.name}</name><displayName>{parameter.aliases[0].lstrip('-')}</displayName>"
            f"<help>{escape(parameter.help)}</help>"
            + "".join(f"<aliases>{alias}</aliases>" for alias in parameter.aliases)
            + f"<flag>{str(parameter.flag).lower()}</flag></param>"
            for parameter in command.parameters
        )
        methods += (
            f"<method><name>{name}</name><displayName>{name}</displayName><help>{escape(command.help)}</help>"
            f"{parameters}<hints><key>formatter</key><value>simple</value></hints></method>"
        )
    last = namespace.rpartition(".")[2]
    return (
        f'<obj {_NAMESPACES} xsi:type="VimCLIInfo"><name>{namespace}</name><displayName>{last}</displayName>'
        f"<help></help>{methods}</obj>"
    )
