"""Publishing what a study ships: a repository on the hub with the ticket, the trained model, and a card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from supertickets.errors import StudyError, TicketError, unknown_value
from supertickets.export.card import Published, Row
from supertickets.export.evidence_file import load_evidence
from supertickets.export.publish import PATTERNS, for_others, with_model, write_published
from supertickets.storage import user_path
from supertickets.studies.config import SETTINGS_FILE
from supertickets.studies.inputs import OpenStudy, open_study, shipped_in
from supertickets.studies.looks import with_looks
from supertickets.tasks import TASKS, TaskSource, squad, task_name
from supertickets.tasks.glue import HUB_ID, GlueTask
from supertickets.tickets.folder import UNNAMED_BASE, SharedTicket, load_any_ticket
from supertickets.tickets.hub import hub_name

if TYPE_CHECKING:
    from supertickets.evidence.runs import Runs

WHAT = ("ticket", "model", "both")


@dataclass(frozen=True)
class Pushed:
    """What was published: the address of the commit, the names of the files, and what the ticket calls its base."""

    address: str
    what: str
    files: tuple[str, ...]
    base: str
    notices: tuple[str, ...] = ()


def push(
    path: Path | str,
    repository: str,
    *,
    what: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    base: str | None = None,
) -> Pushed:
    """Publish a finished study's ticket, its trained model, or both (default: all that there is) on the hub.

    `path` is a finished study of `find` or `imp`, or a ticket folder; `repository` is org/name, made if there is none
    (`private` or not), `revision` a branch of it, made too. `base` is the base model's id on the hub, in place of
    `default` or a folder. The token is the one that huggingface_hub knows.

    Task, labels, recipe, scores and the names of columns are published. No path of this machine and no example is.

    Raises TicketError for what is no ticket, a study that has not ended, a model that is not there, without a token,
    and for a repository that the token may not write to, or that is public in spite of `private`; StudyError if the hub
    cannot be reached or refuses.
    """
    if what is not None and what not in WHAT:
        raise unknown_value("--what", what, WHAT)
    asked = hub_name(repository)
    if asked is None or asked.revision is not None:
        hint = "the branch is named with --revision" if asked is not None else "the name of a repository on the hub"
        raise TicketError(f"{repository}: expected org/name; {hint}.")
    if revision is not None and hub_name(f"{repository}@{revision}") is None:
        raise TicketError(f"--revision {revision}: expected the name of a branch, such as v2.")
    if base is not None and ((named := hub_name(base)) is None or named.revision is not None):
        raise TicketError(f"--base {base}: expected the base model's id on the hub as org/name.")
    folder = user_path(path)
    opened = open_study(folder) if (folder / SETTINGS_FILE).is_file() else None
    ticket = folder if opened is None else shipped_in(folder)
    shared = load_any_ticket(ticket)
    chosen, public = with_model(what, ticket), for_others(shared, base)
    published = _published(ticket, shared, opened, repository, chosen, revision)
    _check_token()
    with TemporaryDirectory(prefix="supertickets-push-") as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        write_published(new, ticket, public, published, _private(folder, shared, opened))
        files = tuple(sorted(one.relative_to(new).as_posix() for one in new.rglob("*") if one.is_file()))
        address = _upload(new, repository, private, revision, message or f"Publish {_named(chosen)} of supertickets")
    return Pushed(address, chosen, files, public.base["name"], tuple(_notices(public, chosen, what)))


def _named(what: str) -> str:
    return {"ticket": "a ticket", "model": "a model", "both": "a ticket and its model"}[what]


def _notices(shared: SharedTicket[Any], chosen: str, asked: str | None) -> Iterator[str]:
    if asked is None and chosen == "ticket":
        yield "There is no trained model beside the ticket, so the ticket alone is published."
    if shared.base["name"] == UNNAMED_BASE:
        yield (
            "The base model is a folder, whose name is not published: whoever uses the ticket has to name the model. "
            "With --base the ticket names one on the hub."
        )


def _published(
    ticket: Path,
    shared: SharedTicket[Any],
    opened: OpenStudy | None,
    repository: str,
    what: str,
    revision: str | None,
) -> Published:
    """Return what the card says beside the ticket: every seed's score, the verdict, the dataset."""
    evidence = load_evidence(ticket)
    trainings = () if evidence is None else evidence.trainings
    columns: tuple[str, ...] = ("kind",)
    sentences: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    if opened is not None:
        runs = opened.replay()
        if not runs.complete:
            raise TicketError(
                f"{opened.folder}: not all of the study's trainings have ended, so that its verdict may be on another "
                f"ticket than {ticket.name}; run the study to its end, or push {ticket} alone."
            )
        findings = with_looks(opened.study.analyse(runs, opened.settings), opened.folder)
        sentences = findings.sentences
        columns, rows = _scores(runs)
        source: TaskSource | None = runs.task.source
    else:
        source = trainings[0].trial.tasks[0].source if trainings and "train_file" not in trainings[0].named else None
        if trainings:
            seeds = tuple(f"{training.seed}: {training.score:.2f}" for training in trainings)
            mean = sum(training.score for training in trainings) / len(trainings)
            rows = (Row((str(shared.origin.get("kind", "ticket")),), mean, seeds),)
    own = next((one.metrics for one in trainings if one.key == shared.origin.get("trial")), None)
    names = list(shared.origin.get("metrics", ()))
    if own is None and "score" in shared.origin and len(names) == 1:
        own = {names[0]: shared.origin["score"]}
    metrics = {name: own[name] for name in names if name in (own or {})} if own is not None else {}
    place = repository if revision is None else f"{repository}@{revision}"
    return Published(repository, place, what, sentences, columns, rows, metrics, _dataset(source))


def _scores(runs: Runs) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """Return the table of every seed's score: a row for each kind of training, in the order of the study's table."""
    names = dict.fromkeys(name for run in runs.runs for name in run.step.labels if name != "seed")
    table = runs.table[runs.table["status"] == "finished"]
    columns = tuple(name for name in names if name in table and table[name].notna().any())
    rows = []
    for _, part in table.groupby(list(columns), sort=False, dropna=False):
        labels = tuple(_text(part.iloc[0][name]) for name in columns)
        seeds = tuple(f"{seed}: {score:.2f}" for seed, score in zip(part["seed"], part["score"], strict=True))
        rows.append(Row(labels, float(part["score"].mean()), seeds))
    return columns, tuple(rows)


def _text(label: Any) -> str:
    """Return a label as text; nothing where there is none (None, NaN)."""
    if label is None or label != label:
        return ""
    return f"{label:g}" if isinstance(label, float) else str(label)


def _dataset(source: TaskSource | None) -> tuple[str, str] | None:
    """Return the hub's name of the dataset that examples are from, and its configuration; None for one's own."""
    if source is None or source.train_file is not None:
        return None
    name = task_name(source.task)
    if name == "squad":
        return squad.HUB_ID, "plain_text"
    return (HUB_ID, name) if name in TASKS and isinstance(TASKS[name], GlueTask) else None


def _private(folder: Path, shared: SharedTicket[Any], opened: OpenStudy | None) -> set[str]:
    """Return the paths that no published file may have: the user's, and those that the study and the ticket name."""
    places = [Path.home(), Path.cwd(), folder]
    if opened is not None:
        sources = [task.source for task in opened.tasks]
        found = [getattr(source, name) for source in sources for name in ("data", "train_file", "dev_file")]
        places += [one for one in found if one is not None]
    if user_path(shared.base["name"]).is_dir():
        places.append(user_path(shared.base["name"]))
    return {str(one.absolute()) for one in places if len(one.absolute().parts) > 1}


def _check_token() -> None:
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise TicketError("there is no token for the hub on this machine; log in with `hf auth login`.")


def _upload(folder: Path, repository: str, private: bool, revision: str | None, message: str) -> str:
    """Make the repository and the branch where there are none, and commit the folder; return the commit's address."""
    import huggingface_hub

    api = huggingface_hub.HfApi(library_name="supertickets")
    with _told(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        is_public = private and not api.repo_info(repository).private
    if is_public:  # it was there before, which `private` does not change
        raise TicketError(
            f"{repository}: --private: there is a public repository of this name on the hub, and nothing was uploaded; "
            "make it private on its page, choose another name, or leave out --private."
        )
    with _told(repository):
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        made = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            delete_patterns=list(PATTERNS),
        )
    return str(made.commit_url)


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Say in a sentence what went wrong on the hub."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise TicketError(
                f"{repository}: the hub does not let you write to it ({status}); check the name, and log in with "
                "`hf auth login` and a token that may write."
            ) from error
        raise StudyError(f"{repository}: the hub refused it ({error.server_message or status}).") from error
    except Exception as error:  # the client lets errors of its HTTP library through, which are of many kinds
        raise StudyError(
            f"{repository}: the hub could not be reached, or not to the end ({type(error).__name__}); run the same "
            "command again."
        ) from error
