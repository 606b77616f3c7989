"""The manager of lifecycle hooks: pluggy's, with messages that name plugin, file and line."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pluggy

from fwk.contracts import hooks as hookspecs
from fwk.contracts.plain import PlainMapping
from fwk.errors import FwkError, HookFailed, PluginError, did_you_mean

PREFIX = "fwk_"


class PluginManager(pluggy.PluginManager):
    """pluggy's manager. An implementation is checked when it is registered, and named when it raises."""

    def __init__(self) -> None:
        super().__init__("fwk")
        self._registering = ""  # the plugin whose hooks are being checked
        self.add_hookspecs(hookspecs)
        self.add_hookcall_monitoring(lambda *_: None, self._name_failure)

    def register(self, plugin: Any, name: str | None = None) -> str | None:
        """Register a module or object that implements hooks, and return its name.

        Raises PluginError for a hook or an argument that does not exist, and for a function that is not marked.
        """
        self._registering = str(name or getattr(plugin, "__name__", type(plugin).__name__))
        try:
            return super().register(plugin, name)
        except PluginError:
            if self.is_registered(plugin):
                self.unregister(plugin)
            raise

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the marker of a hook implementation, None for anything else. pluggy asks this for every attribute."""
        if not name.startswith(PREFIX):
            return None
        function = inspect.getattr_static(plugin, name)
        function = getattr(function, "__func__", function)
        if not callable(function):
            return None
        if isinstance(plugin, ModuleType) and function.__module__ != plugin.__name__:
            return None  # imported by the module, not defined in it

        options = getattr(function, f"{self.project_name}_impl", None)
        hook = (options or {}).get("specname") or name
        if hook not in hook_signatures():
            raise PluginError(
                f"plugin '{self._registering}' implements {hook}{_place(function)}, which is no "
                f"hook of fwk{did_you_mean(hook, hook_signatures(), everything_up_to=0)}"
            )
        if options is None:
            raise PluginError(
                f"plugin '{self._registering}' has a function {name}{_place(function)} that is not "
                "marked with @fwk.hookimpl, so it would never be called"
            )
        return super().parse_hookimpl_opts(plugin, name)

    def _verify_hook(self, hook: pluggy.HookCaller, hookimpl: pluggy.HookImpl) -> None:
        """Check an implementation's arguments as pluggy does, with our message."""
        try:
            super()._verify_hook(hook, hookimpl)
        except pluggy.PluginValidationError as error:
            signature = hook_signatures()[hook.name]
            subject = f"plugin '{self._registering}': {hook.name}{_place(hookimpl.function)}"
            for argument in hookimpl.argnames:
                if argument not in signature.parameters:
                    raise PluginError(
                        f"{subject} takes an argument '{argument}' that the hook does not pass; "
                        f"the hook is {_definition(hook.name, signature)}"
                        f"{did_you_mean(argument, signature.parameters, 0)}"
                    ) from None
            raise PluginError(f"{subject}: {' '.join(str(error).split())}") from None

    @staticmethod
    def _name_failure(
        outcome: pluggy.Result[Any],
        hook: str,
        implementations: Sequence[pluggy.HookImpl],
        arguments: PlainMapping,
    ) -> None:
        """After a hook was called: replace an exception of an implementation by one that names its plugin."""
        error = outcome.exception
        if not isinstance(error, Exception) or isinstance(error, FwkError):
            return
        running = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        names = [
            implementation.plugin_name
            for implementation in implementations
            if getattr(implementation.function, "__code__", None) in running
        ]
        failure = HookFailed(hook, names[0] if names else "a plugin", error)
        failure.__cause__ = error
        outcome.force_exception(failure)


def hook_signatures() -> dict[str, inspect.Signature]:
    """Return the signature of every hook by its name."""
    return {
        name: inspect.signature(value)
        for name, value in vars(hookspecs).items()
        if name.startswith(PREFIX) and hasattr(value, "fwk_spec")
    }


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({code.co_filename}:{code.co_firstlineno})" if code else ""


def _definition(hook: str, signature: inspect.Signature) -> str:
    return f"{hook}{signature.replace(return_annotation=inspect.Signature.empty)}"
