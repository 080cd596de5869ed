"""Messages of TensorBoard's dashboard HParams: a run's row with its settings. Does not import torch."""

from collections.abc import Mapping
from typing import Any


def hparams_message(tag: str, **content: Any) -> Any:
    """A summary with a message of the plugin HParams."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    data = plugin_data_pb2.HParamsPluginData(**content)
    known = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=known, tensor=metadata.NULL_TENSOR)])


def row_messages(settings: Mapping[str, bool | float | str], name: str = "") -> list[Any]:
    """The start and the end of a run that went well.

    Args:
        settings: the cells of its row.
        name: of the row, the column "Trial ID"; rows of one name become one, with the means of their metrics. Without a
            name, the path of the event files.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(group_name=name)
    for key, value in settings.items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(start.hparams[key], f"{kind}_value", value)
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    return [
        hparams_message(metadata.SESSION_START_INFO_TAG, session_start_info=start),
        hparams_message(metadata.SESSION_END_INFO_TAG, session_end_info=end),
    ]
