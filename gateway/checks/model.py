"""The model server: whether it is there, and whether it answers."""

import asyncio

from gateway.checks.finding import Finding, ok, warning, wrong
from gateway.secrets import without_secrets
from gateway.settings import Settings
from gateway.upstream import open_driver
from llm.client import Driver, Generation, PromptMessage, UpstreamError, UpstreamTimeout

ABOUT = "model server"
ANSWER = "model answer"
ANSWER_S = 60.0

_START = "start it, or correct LLM_SERVER_URL"


async def check_model(settings: Settings) -> list[Finding]:
    """Ask each model server how it is, as the gateway would."""
    if settings.simulated:
        return [
            warning(
                ABOUT,
                "SIMULATED: answers are made up",
                "set LLM_SERVER_URL to the address of a model server",
            )
        ]
    alone = [settings.model_copy(update={"llm_server_url": each}) for each in settings.llm_servers]
    return await asyncio.gather(*map(_check_server, alone))


async def check_answer(settings: Settings) -> list[Finding]:
    """Have one token generated, and say how long that took."""
    async with open_driver(settings) as driver:
        loop = asyncio.get_running_loop()
        began = loop.time()
        said: list[str] = []
        question = [PromptMessage("user", "안녕")]
        try:
            async with asyncio.timeout(ANSWER_S):
                await driver.stream(
                    question,
                    Generation(max_new_tokens=1, temperature=1.0, do_sample=False),
                    lambda piece, _: said.append(piece),
                )
        except TimeoutError:
            return [wrong(ANSWER, f"none within {ANSWER_S:.0f} s", "see what keeps the model busy")]
        except UpstreamError as error:
            return [wrong(ANSWER, str(error), "look at the model server's own log")]
        return [ok(ANSWER, f"one token after {(loop.time() - began) * 1000:.0f} ms")]


async def _check_server(settings: Settings) -> Finding:
    async with open_driver(settings) as driver:
        return await _health(driver, settings)


async def _health(driver: Driver, settings: Settings) -> Finding:
    where = without_secrets(settings.llm_server_url)
    try:
        well = await driver.healthy()
    except UpstreamTimeout:
        return warning(
            ABOUT,
            f"{where} is mute: it generates just now, or it hangs",
            "try again; if it stays so, restart it",
        )
    except UpstreamError as error:
        return wrong(ABOUT, f"{where} cannot be reached: {error}", _START)
    if not well:
        return wrong(
            ABOUT,
            f"{where} answers, but not as a server of {_asked_for(settings)} that is loaded",
            "wait until it has loaded its model, or correct LLM_SERVER_URL, LLM_API or LLM_MODEL",
        )
    return ok(ABOUT, f"{where} is ready")


def _asked_for(settings: Settings) -> str:
    if settings.llm_api == "midm":
        return "midm"
    return f"the model {settings.llm_model}" if settings.llm_model else "OpenAI's API with a model"
