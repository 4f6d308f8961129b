"""The two programs that supervisord runs: the worker and the recorder. They live for weeks, and import nothing else."""

from collections.abc import Callable

from worker.base.logs import set_up_logging
from worker.base.settings import Settings, load_settings
from worker.mail.names import use_own_names


def active_settings() -> Settings:
    """The environment's, in force.

    Raises:
        SettingsError: it has mistakes.
    """
    loaded = load_settings()
    use_own_names(loaded.jobs.own_names)
    return loaded


def _run(settings: Settings) -> int:
    from worker.sending.process import run_worker

    set_up_logging(settings)
    run_worker(settings)
    return 0


def _record(settings: Settings) -> int:
    from worker.base.stopping import Stop
    from worker.recording.recorder import run_recorder

    set_up_logging(settings)
    run_recorder(settings, Stop())
    return 0


#: By their commands.
PROGRAMS: dict[str, Callable[[Settings], int]] = {"run": _run, "record": _record}
