"""One model version behind a unix domain socket: a process of its own, with no other door.

Started as `python -m penala.endpoint.deployment --model FOLDER --socket NAME --ready FILE ...` in the socket's folder.
Only the endpoint's gateway talks to it, and asks for the key first.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from penala.endpoint.batcher import Batcher
from penala.endpoint.disconnects import unless_gone
from penala.endpoint.openai_routes import openai_routes
from penala.endpoint.refusals import EXCEPTION_HANDLERS, json_response
from penala.endpoint.scoring import parse_score, score_reply
from penala.endpoint.servers import listen_on_path, log_to_stderr, run
from penala.endpoint.serving import Admission, RequestSettings, Serving, Tokenizer
from penala.engines.engine import Engine
from penala.errors import PenalaError

log = logging.getLogger(__name__)

DEFAULTS = RequestSettings()


def deployment_app(
    engine: Engine,
    tokenizer: Tokenizer,
    *,
    model: str,
    settings: RequestSettings = DEFAULTS,
) -> Starlette:
    """Return the application of one deployment: `/score`, OpenAI's routes, and `/readyz` for its gateway."""
    batcher = Batcher(engine)
    serving = Serving(batcher, tokenizer, model=model, max_length=engine.max_length, settings=settings)

    async def score(request: Request) -> Response:
        scoring = parse_score(await request.body())
        asked = [await serving.ask(messages, scoring.sampling) for messages in scoring.conversations]
        replies = await unless_gone(request, serving.replies(asked))
        texts = [reply.text for reply in replies]
        if scoring.return_full_text:
            prompts = [serving.text_of(messages) for messages in scoring.conversations]
            texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        return json_response(score_reply(texts))

    async def ready(request: Request) -> Response:
        return json_response({"status": "ready", "model": model})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.close()

    routes = [
        Route("/score", score, methods=["POST"], middleware=[Middleware(Admission, serving=serving)]),
        *openai_routes(serving),
        Route("/readyz", ready),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False  # it would send the client to the socket's name, with its key
    return app


def open_model(folder: Path, max_rows: int) -> tuple[Engine, Tokenizer]:
    """Load a model folder for serving, after proof that its template is the one that it was trained with.

    Raises TemplateMismatch with the first token that differs. A folder without a lock was not tuned here and has
    nothing to prove.
    """
    from penala.tokens.chat_tokenizer import ChatTokenizer
    from penala.tokens.lock import FILE, TemplateLock

    tokenizer = ChatTokenizer.from_folder(folder)
    lock = folder / FILE
    if lock.exists():
        TemplateLock.load(lock).verify(tokenizer)
        log.info("the chat template is the one that the model was trained with")
    else:
        log.info("no %s: the chat template is taken as it is", FILE)
    from penala.engines.transformers_engine import open_engine  # seconds: after what may refuse to start

    return open_engine(folder, max_rows=max_rows), tokenizer


def main(argv: Sequence[str] | None = None) -> None:
    """Serve one model until SIGTERM. Exits with 1 and the reason as the log's last line when it cannot."""
    parser = argparse.ArgumentParser(prog="python -m penala.endpoint.deployment", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="model folder: config, safetensors, tokenizer")
    parser.add_argument("--name", required=True, help="what answers call the model, NAME:VERSION")
    parser.add_argument("--socket", type=Path, required=True, help="unix domain socket to answer on; a short path")
    parser.add_argument("--ready", type=Path, required=True, help="file to make when requests are taken")
    for name in RequestSettings.__slots__:
        parser.add_argument(f"--{name}", type=int, default=getattr(DEFAULTS, name))
    arguments = parser.parse_args(argv)
    log_to_stderr()
    settings = RequestSettings(**{name: getattr(arguments, name) for name in RequestSettings.__slots__})
    log.info("loading %s from %s", arguments.name, arguments.model)
    try:
        engine, tokenizer = open_model(arguments.model, settings.max_concurrent_requests_per_instance)
    except PenalaError as error:
        log.error("%s", error)
        sys.exit(1)
    app = deployment_app(engine, tokenizer, model=arguments.name, settings=settings)
    listener = listen_on_path(arguments.socket)
    log.info("ready")
    run(app, listener, arguments.ready)


if __name__ == "__main__":
    main()
