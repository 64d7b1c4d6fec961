"""What the fault tests share."""

from tests.gateway.conftest import _no_settings_from_outside, gateway, model

__all__ = ["_no_settings_from_outside", "gateway", "model"]
