"""The reflection types that esxcli travels through and that the pyVmomi wheel lacks.

Their shapes are those of the vSphere API's internal `reflect` types, as govmomi's `internal` package lists them.
"""

from __future__ import annotations

from pyVmomi.VmomiSupport import F_OPTIONAL, CreateDataType, CreateManagedType, GetVmodlType

__all__ = ["DynamicTypeManager", "ManagedMethodExecuter", "MoInstance", "SoapArgument", "SoapFault", "SoapResult"]

_VERSION = "vim.version.version5"
_EXECUTER = "vmodl.reflect.ManagedMethodExecuter"
_MANAGER = "vmodl.reflect.DynamicTypeManager"
_DATA = "vmodl.DynamicData"


def _define() -> None:
    """Several modules of one process may define these types: the first one wins."""
    try:
        GetVmodlType(_EXECUTER)
    except KeyError:
        _define_executer()
    try:
        GetVmodlType(_MANAGER)
    except KeyError:
        _define_manager()


def _define_executer() -> None:
    wsdl = "ReflectManagedMethodExecuter"
    CreateDataType(
        f"{_EXECUTER}.SoapArgument", f"{wsdl}SoapArgument", _DATA, _VERSION,
        [("name", "string", _VERSION, 0), ("val", "string", _VERSION, 0)],
    )  # fmt: skip
    CreateDataType(
        f"{_EXECUTER}.SoapFault", f"{wsdl}SoapFault", _DATA, _VERSION,
        [("faultMsg", "string", _VERSION, 0), ("faultDetail", "string", _VERSION, F_OPTIONAL)],
    )  # fmt: skip
    CreateDataType(
        f"{_EXECUTER}.SoapResult", f"{wsdl}SoapResult", _DATA, _VERSION,
        [
            ("response", "string", _VERSION, F_OPTIONAL),
            ("fault", f"{_EXECUTER}.SoapFault", _VERSION, F_OPTIONAL),
        ],
    )  # fmt: skip
    arguments = tuple((name, "string", _VERSION, 0, None) for name in ("moid", "version", "method"))
    arguments += (("argument", f"{_EXECUTER}.SoapArgument[]", _VERSION, F_OPTIONAL, None),)
    CreateManagedType(
        _EXECUTER, wsdl, "vmodl.ManagedObject", _VERSION, None,
        [
            ("retrieve", "RetrieveManagedMethodExecuter", _VERSION, (), (F_OPTIONAL, _EXECUTER, _EXECUTER), None, None),
            (
                "executeSoap", "ExecuteSoap", _VERSION, arguments,
                (F_OPTIONAL, f"{_EXECUTER}.SoapResult", f"{_EXECUTER}.SoapResult"), None, None,
            ),
        ],
    )  # fmt: skip


def _define_manager() -> None:
    fields = [("id", "string", _VERSION, 0), ("moType", "string", _VERSION, 0)]
    CreateDataType(f"{_MANAGER}.MoInstance", "DynamicTypeMgrMoInstance", _DATA, _VERSION, fields)
    CreateDataType(f"{_MANAGER}.FilterSpec", "DynamicTypeMgrFilterSpec", _DATA, _VERSION, [])
    CreateDataType(
        f"{_MANAGER}.MoFilterSpec", "DynamicTypeMgrMoFilterSpec", f"{_MANAGER}.FilterSpec", _VERSION,
        [("id", "string", _VERSION, F_OPTIONAL), ("typeSubstr", "string", _VERSION, F_OPTIONAL)],
    )  # fmt: skip
    instances = f"{_MANAGER}.MoInstance[]"
    CreateManagedType(
        _MANAGER, "InternalDynamicTypeManager", "vmodl.ManagedObject", _VERSION, None,
        [
            ("retrieve", "RetrieveDynamicTypeManager", _VERSION, (), (F_OPTIONAL, _MANAGER, _MANAGER), None, None),
            (
                "queryMoInstances", "DynamicTypeMgrQueryMoInstances", _VERSION,
                (("filterSpec", f"{_MANAGER}.FilterSpec", _VERSION, F_OPTIONAL, None),),
                (F_OPTIONAL, instances, instances), None, None,
            ),
        ],
    )  # fmt: skip


_define()
ManagedMethodExecuter = GetVmodlType(_EXECUTER)
SoapArgument = GetVmodlType(f"{_EXECUTER}.SoapArgument")
SoapFault = GetVmodlType(f"{_EXECUTER}.SoapFault")
SoapResult = GetVmodlType(f"{_EXECUTER}.SoapResult")
DynamicTypeManager = GetVmodlType(_MANAGER)
MoInstance = GetVmodlType(f"{_MANAGER}.MoInstance")
