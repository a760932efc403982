"""The objects every client meets first: service instance, session manager and the small managers."""

from __future__ import annotations

import uuid
from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import CURRENT_CALL, Call, Managed, Registry, method, prop
from simulator.wire.session import Session, Sessions

__all__ = ["AuthorizationManager", "LicenseManager", "OptionManager", "ServiceInstance", "SessionManager"]

BUILD = "22617221"


class ServiceInstance(Managed):
    """The root of the API; its `content` names all managers present in the registry."""

    vim_type = vim.ServiceInstance

    def __init__(self, registry: Registry, api_version: str, root_folder: Managed, instance_uuid: uuid.UUID) -> None:
        super().__init__(registry, "ServiceInstance")
        release = ".".join(api_version.split(".")[:3])
        about = vim.AboutInfo(
            name="VMware vCenter Server",
            fullName=f"VMware vCenter Server {release} build-{BUILD}",
            vendor="VMware, Inc.",
            version=release,
            build=BUILD,
            localeVersion="INTL",
            localeBuild="000",
            osType="linux-x64",
            productLineId="vpx",
            apiType="VirtualCenter",
            apiVersion=api_version,
            instanceUuid=str(instance_uuid),
            licenseProductName="VMware VirtualCenter Server",
            licenseProductVersion=f"{release.partition('.')[0]}.0",
        )
        self._content = vim.ServiceInstanceContent(
            rootFolder=root_folder.ref(),
            propertyCollector=vmodl.query.PropertyCollector("propertyCollector"),
            viewManager=vim.view.ViewManager("ViewManager"),
            about=about,
            setting=vim.option.OptionManager("VpxSettings"),
            sessionManager=vim.SessionManager("SessionManager"),
            authorizationManager=vim.AuthorizationManager("AuthorizationManager"),
            eventManager=vim.event.EventManager("EventManager"),
            taskManager=vim.TaskManager("TaskManager"),
            extensionManager=vim.ExtensionManager("ExtensionManager"),
            licenseManager=vim.LicenseManager("LicenseManager"),
            searchIndex=vim.SearchIndex("SearchIndex"),
            guestOperationsManager=(
                vim.vm.guest.GuestOperationsManager("guestOperationsManager")
                if "guestOperationsManager" in registry.objects
                else None
            ),
        )

    @prop("content")
    def content(self) -> Any:
        return self._content

    @prop("serverClock")
    def server_clock(self) -> Any:
        return self.registry.clock.now()

    @prop("capability")
    def capability(self) -> Any:
        return vim.Capability(
            provisioningSupported=True,
            multiHostSupported=True,
            userShellAccessSupported=False,
            networkBackupAndRestoreSupported=False,
        )

    @method("RetrieveServiceContent")
    def retrieve_content(self, call: Call) -> Any:
        return self._content

    @method("CurrentTime")
    def current_time(self, call: Call) -> Any:
        return self.registry.clock.now()


class SessionManager(Managed):
    """Login and logout."""

    vim_type = vim.SessionManager

    def __init__(self, registry: Registry, sessions: Sessions) -> None:
        super().__init__(registry, "SessionManager")
        self.sessions = sessions

    @prop("currentSession")
    def current_session(self) -> Any:
        """The reader's own session; unset before login."""
        call = CURRENT_CALL.get()
        return _session(call).shown() if call is not None and call.session.user else None

    @prop("sessionList")
    def session_list(self) -> list[Any]:
        return [session.shown() for session in self.sessions]

    @prop("message")
    def message(self) -> str:
        return ""

    @prop("defaultLocale")
    def default_locale(self) -> str:
        return "en"

    @prop("supportedLocaleList")
    def supported_locale_list(self) -> list[str]:
        return ["en"]

    @prop("messageLocaleList")
    def message_locale_list(self) -> list[str]:
        return ["en"]

    @method("Login")
    def login(self, call: Call, userName: str, password: str, locale: str | None) -> Any:
        session = _session(call)
        self.sessions.login(session, userName, password)
        self.touch()
        return session.shown()

    @method("Logout")
    def logout(self, call: Call) -> None:
        self.sessions.end(_session(call))
        self.touch()

    @method("SessionIsActive")
    def session_is_active(self, call: Call, sessionID: str, userName: str) -> bool:
        session = self.sessions.get(sessionID)
        return session is not None and session.user.casefold() == userName.casefold()

    @method("TerminateSession")
    def terminate_session(self, call: Call, sessionId: list[str]) -> None:
        for key in sessionId:
            session = self.sessions.get(key)
            if session is None:
                raise vim.fault.NotFound(msg=f"There is no session {key}.")
            if session is call.session:
                raise vmodl.fault.InvalidArgument(invalidProperty="sessionId", msg="A session cannot end itself.")
            self.sessions.end(session)
        self.touch()

    @method("SetLocale")
    def set_locale(self, call: Call, locale: str) -> None:
        if locale.partition("_")[0] != "en":
            raise vim.fault.InvalidLocale(msg=f"The locale {locale} is not available: use `en`.")


class OptionManager(Managed):
    """vCenter's settings; `VpxSettings`."""

    vim_type = vim.option.OptionManager

    def __init__(self, registry: Registry, moid: str, options: dict[str, Any]) -> None:
        super().__init__(registry, moid)
        self.options = options

    @prop("setting")
    def setting(self) -> list[Any]:
        return [vim.option.OptionValue(key=key, value=value) for key, value in sorted(self.options.items())]

    @prop("supportedOption")
    def supported_option(self) -> list[Any]:
        return []

    @method("QueryOptions")
    def query_options(self, call: Call, name: str | None) -> list[Any]:
        found = [
            option
            for option in self.setting()
            if name is None or option.key == name or (name.endswith(".") and option.key.startswith(name))
        ]
        if not found:
            raise vim.fault.InvalidName(name=name or "", msg=f"There is no option `{name}`.")
        return found

    @method("UpdateOptions")
    def update_options(self, call: Call, changedValue: list[Any]) -> None:
        for option in changedValue:
            self.options[option.key] = option.value
        self.touch()


class LicenseManager(Managed):
    """One evaluation licence."""

    vim_type = vim.LicenseManager

    @prop("licensedEdition")
    def licensed_edition(self) -> str:
        return ""

    @prop("licenses")
    def licenses(self) -> list[Any]:
        return [
            vim.LicenseManager.LicenseInfo(
                licenseKey="00000-00000-00000-00000-00000",
                editionKey="eval",
                name="Product Evaluation",
                total=0,
                used=0,
                costUnit="",
            )
        ]


class ExtensionManager(Managed):
    """No extension is registered at first."""

    vim_type = vim.ExtensionManager

    def __init__(self, registry: Registry, moid: str) -> None:
        super().__init__(registry, moid)
        self.extensions: dict[str, Any] = {}

    @prop("extensionList")
    def extension_list(self) -> list[Any]:
        return list(self.extensions.values())

    @method("FindExtension")
    def find_extension(self, call: Call, extensionKey: str) -> Any:
        return self.extensions.get(extensionKey)

    @method("RegisterExtension")
    def register_extension(self, call: Call, extension: Any) -> None:
        if extension.key in self.extensions:
            raise vmodl.fault.InvalidArgument(invalidProperty="extension.key", msg="The extension is registered.")
        self.extensions[extension.key] = extension
        self.touch()

    @method("UnregisterExtension")
    def unregister_extension(self, call: Call, extensionKey: str) -> None:
        if self.extensions.pop(extensionKey, None) is None:
            raise vim.fault.NotFound(msg=f"There is no extension {extensionKey}.")
        self.touch()


class AuthorizationManager(Managed):
    """The simulator's one user is an administrator."""

    vim_type = vim.AuthorizationManager

    @prop("roleList")
    def role_list(self) -> list[Any]:
        info = vim.Description(label="Administrator", summary="Full access rights")
        return [vim.AuthorizationManager.Role(roleId=-1, system=True, name="Admin", info=info, privilege=[])]

    @method("HasPrivilegeOnEntities")
    def has_privilege_on_entities(
        self, call: Call, entity: list[Any], sessionId: str, privId: list[str] | None
    ) -> list[Any]:
        return [
            vim.AuthorizationManager.EntityPrivilege(
                entity=each,
                privAvailability=[
                    vim.AuthorizationManager.PrivilegeAvailability(privId=name, isGranted=True) for name in privId or ()
                ],
            )
            for each in entity
        ]


def _session(call: Call) -> Session:
    if not isinstance(call.session, Session):
        raise TypeError("session methods are called over the wire only")
    return call.session
