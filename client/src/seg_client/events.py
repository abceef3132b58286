"""A job's events as they come: what a line means, and when to listen again."""

import json

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from seg_client import flows
from seg_client.answers import FailureReason
from seg_client.errors import ConnectionFailed, UnexpectedAnswer
from seg_client.flows import Send
from seg_client.retries import Deadline, pause_seconds


class JobEvent(BaseModel):
    """Where a job stands: its status, while it is worked on its stage, and a SAM-2's points.

    `status` is `queued`, `processing`, `completed`, `failed` or `deleted`. The last three are the
    end.
    """

    model_config = ConfigDict(extra="allow")

    uuid: str
    status: str
    stage: str | None = None
    done: int | None = None
    total: int | None = None
    segments: int | None = None
    error: FailureReason | None = None

    @property
    def is_last(self) -> bool:
        """Whether the job has ended."""
        return self.status in (*flows.FINISHED, "deleted")


class EventReader:
    """Reads one job's events, over as many connections as it takes."""

    def __init__(self, uuid: str, retry_seconds: float) -> None:
        self._path, self._retry_seconds = f"{flows.job_path(uuid)}/events", retry_seconds
        self._last_id, self._id, self._data = "", "", ""
        self._deadline, self._attempt = Deadline(retry_seconds), 0
        self.is_over = False

    def request(self) -> Send:
        """What to ask for now."""
        headers = {"accept": "text/event-stream"}
        if self._last_id:
            headers["last-event-id"] = self._last_id
        return Send("GET", self._path, headers=headers)

    def read(self, line: str) -> JobEvent | None:
        """The event that ends with this line, if one does. Raises UnexpectedAnswer."""
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data += value
        if line or not self._data:
            return None
        data, self._data, self._last_id = self._data, "", self._id
        self._deadline, self._attempt = Deadline(self._retry_seconds), 0
        event = _event(data)
        self.is_over = event.is_last
        return event

    def answered(self, answer: httpx.Response) -> None:
        """Looks at an answer whose body, if it is a refusal, was read. Raises what will stay."""
        if answer.status_code == 204:
            self.is_over = True
        elif not answer.is_success and not flows.is_passing(answer):
            flows.checked(answer)

    def pause(self, answer: httpx.Response | None) -> float:
        """Seconds until to listen again, after the connection ended or was refused.

        Raises the refusal or ConnectionFailed when the time for that is used up.
        """
        refused = answer if answer is not None and not answer.is_success else None
        seconds = pause_seconds(self._attempt, refused)
        self._attempt, self._data = self._attempt + 1, ""
        if seconds > self._deadline.left:
            if refused is not None:
                flows.checked(refused)
            raise ConnectionFailed(f"GET {self._path} broke off again and again.")
        return seconds


def _event(data: str) -> JobEvent:
    try:
        return JobEvent.model_validate(json.loads(data))
    except (ValueError, ValidationError) as error:
        raise UnexpectedAnswer("an event is not what this service sends.") from error
