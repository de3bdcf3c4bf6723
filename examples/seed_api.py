"""The API of the original server: a state that is saved and loaded, events, autosave and metrics.

python examples/seed_api.py        # in ./coding-agent-state, or where STATE_PATH says
"""

from __future__ import annotations

import asyncio

from statepath import Events, PersistedState, SessionInfo, Task, TaskLogEntry
from statepath.events import Event, SaveError
from statepath.models import iso_now
from statepath.persistence import StatePersistence


def tell(event: Event) -> None:
    print(f"  [{event.name}]")


async def serve(events: Events) -> None:
    async with StatePersistence.open(autosave=0.1, handle_signals=True, events=events) as p:
        state = await p.load_state() or PersistedState()
        print(f"Loaded: {len(state.tasks)} tasks, last saved at {state.last_saved or 'no time yet'}.")

        started = iso_now()
        task = Task(id="task_1", description="Implement authentication", status="running", created_at=started)
        await p.save_task(task)
        await p.save_session_log("session_1", f"{started} task_1 started\n")

        task.status, task.completed_at = "completed", iso_now()
        task.logs.append(TaskLogEntry(timestamp=iso_now(), level="info", type="system", message="Done"))
        await p.save_task(task)

        # Beside the single saves: the whole state at once. Only what differs is written.
        state = PersistedState(
            tasks=[task, Task(id="task_2", description="Write the tests", status="failed")],
            sessions=[SessionInfo(id="session_1", status="active")],
        )
        saved = await p.save_state(state)
        print(f"Saved as of seq {saved.seq}: {', '.join(saved.saved) or 'nothing had changed'}.")
        print(f"The report is {await p.save_report('report_1', {'tests_passed': True})}.")
        await asyncio.sleep(0.3)  # an autosave comes by


async def main() -> None:
    events = Events()
    events.on("*", tell)
    events.on(SaveError, lambda event: print(f"Not saved: {event.error}"))

    print("A server starts.")
    await serve(events)

    print("\nIt starts again, and everything is there.")
    async with StatePersistence.open(readonly=True) as p:
        state = await p.load_state()
        assert state is not None
        for task in state.tasks:
            print(f"  {task.id}: {task.description}, {task.status}")
        print(f"  {state.metrics.completed_tasks} of {state.metrics.total_tasks} tasks completed")
    await events.aclose()


asyncio.run(main())
