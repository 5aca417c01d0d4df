"""What a query of a query set is: the columns of its Parquet files."""

from __future__ import annotations

import pyarrow as pa

CHARACTERS_PER_TOKEN = 4
"""For an estimate without a tokenizer, of English."""

QUERY_SCHEMA = pa.schema(
    {
        "id": pa.string(),  # unique: the collection and a hash of where the query comes from
        "collection": pa.string(),  # cot | niv2 | flan2021 | t0
        "task": pa.string(),
        "template_type": pa.string(),  # FLAN's: zs_opt | zs_noopt
        "template": pa.string(),  # layout or prompt template, where this project rendered it
        "system_message_id": pa.int8(),  # number in Table 2
        "system_message": pa.string(),
        "query": pa.string(),
        "targets": pa.list_(pa.string()),  # every gold answer
        "multiple_choice": pa.bool_(),  # an option block was found in the query
        "source_file": pa.string(),
        "source_row": pa.int64(),  # 1-based
    }
)
