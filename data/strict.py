"""The base of every configuration model: frozen, and deaf to unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown keys, infinities and NaN (``.inf`` and ``.nan`` in YAML), and
    does not coerce types behind the user's back."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
