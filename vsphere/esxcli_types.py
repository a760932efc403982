"""The reflection types that esxcli calls travel through; the pyVmomi wheel lacks them.

Shapes as in the vSphere API's internal `reflect` types (`ReflectManagedMethodExecuter`, API version 5.0).
"""

from typing import Any

from pyVmomi.VmomiSupport import F_OPTIONAL, CreateDataType, CreateManagedType, GetVmodlType

__all__ = ["ManagedMethodExecuter", "SoapArgument"]

_VERSION = "vim.version.version5"
_NAME = "vmodl.reflect.ManagedMethodExecuter"
_WSDL = "ReflectManagedMethodExecuter"


def _string(name: str, flags: int = 0) -> tuple[str, str, str, int]:
    return (name, "string", _VERSION, flags)


def _define() -> None:
    data = "vmodl.DynamicData"
    CreateDataType(f"{_NAME}.SoapArgument", f"{_WSDL}SoapArgument", data, _VERSION, [_string("name"), _string("val")])
    CreateDataType(
        f"{_NAME}.SoapFault",
        f"{_WSDL}SoapFault",
        data,
        _VERSION,
        [_string("faultMsg"), _string("faultDetail", F_OPTIONAL)],
    )
    CreateDataType(
        f"{_NAME}.SoapResult",
        f"{_WSDL}SoapResult",
        data,
        _VERSION,
        [_string("response", F_OPTIONAL), ("fault", f"{_NAME}.SoapFault", _VERSION, F_OPTIONAL)],
    )
    arguments = tuple((name, "string", _VERSION, 0, None) for name in ("moid", "version", "method"))
    arguments += (("argument", f"{_NAME}.SoapArgument[]", _VERSION, F_OPTIONAL, None),)
    result = (F_OPTIONAL, f"{_NAME}.SoapResult", f"{_NAME}.SoapResult")
    CreateManagedType(
        _NAME,
        _WSDL,
        "vmodl.ManagedObject",
        _VERSION,
        None,
        [
            # Called on the host although it is not one of HostSystem's methods in the wheel.
            ("retrieve", "RetrieveManagedMethodExecuter", _VERSION, (), (F_OPTIONAL, _NAME, _NAME), None, None),
            ("executeSoap", "ExecuteSoap", _VERSION, arguments, result, None, None),
        ],
    )


def _get(name: str) -> Any:
    try:
        return GetVmodlType(name)
    except KeyError:
        return None


# pyVmomi's registry is global and refuses a second definition, and others in the process may have come first.
if _get(_NAME) is None:
    _define()
ManagedMethodExecuter: Any = GetVmodlType(_NAME)
SoapArgument: Any = GetVmodlType(f"{_NAME}.SoapArgument")

# vcsim names the reference's type without the prefix.
if _get("vim.ManagedMethodExecuter") is None:
    CreateManagedType("vim.ManagedMethodExecuter", "ManagedMethodExecuter", _NAME, _VERSION, None, None)
