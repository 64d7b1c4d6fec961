"""Which models an OpenAI-compatible server lists. Pure."""


def first_model(listed: object) -> str:
    """Name the first model that `/v1/models` lists; nothing if there is none."""
    return next(iter(_names(listed)), "")


def missing(listed: object, model: str) -> str:
    """Say what is wrong with the list if `model` is to be asked for, "" being the first of it.

    Nothing is wrong if it is there: as it is, as Ollama writes it (`name:latest`) or as
    transformers does (`name@revision`). An empty list does not tell: transformers lists none when
    it serves a single model from a folder.
    """
    names = _names(listed)
    if not names:
        return "" if model else "it lists no model, so LLM_MODEL has to name one"
    if not model or any(model in (name, name.partition("@")[0]) for name in names):
        return ""
    if f"{model}:latest" in names:
        return ""
    return f"it does not serve LLM_MODEL={model}, but {', '.join(names[:5])}"


def _names(listed: object) -> list[str]:
    match listed:
        case {"data": list(models)}:
            found = (model.get("id") for model in models if isinstance(model, dict))
            return [name for name in found if isinstance(name, str) and name]
    return []
