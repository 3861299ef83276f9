"""How do arrays lie on disk, so that nothing is lost, mixed up or changed without a sound?

FORMAT.md beside this file is the specification. Writing: `write_plan`, then for each of
`missing_parts` a `commit_part` inside `claim_part`, then `finish`. Reading: `open_cache`, then
`Cache.read_part` and `Cache.read_samples`. Proving: `find_faults`. The store knows fields over
positions or rows, not what they mean, and needs zarr and pyarrow only when arrays are touched.
"""

from pipeline.store.cache import Cache, follow_cache, open_begun, open_cache
from pipeline.store.commit import (
    Built,
    build_part,
    check_folder,
    check_plan,
    claim_part,
    commit_part,
    finish,
    plan_in_turn,
    store_part,
    write_plan,
)
from pipeline.store.faults import Fault, check_part, find_faults
from pipeline.store.fields import UNLABELLED, Field, SampleTable
from pipeline.store.places import Spool, Where
from pipeline.store.plan import Plan
from pipeline.store.records import (
    check_complete,
    is_planned,
    missing_parts,
    part_ranges,
    read_plan,
)
from pipeline.store.scratch import read_scratch, write_scratch
from pipeline.store.shared import Shared, encode_shared, read_shared, shared_faults

__all__ = [
    "UNLABELLED",
    "Built",
    "Cache",
    "Fault",
    "Field",
    "Plan",
    "SampleTable",
    "Shared",
    "Spool",
    "Where",
    "build_part",
    "check_complete",
    "check_folder",
    "check_part",
    "check_plan",
    "claim_part",
    "commit_part",
    "encode_shared",
    "find_faults",
    "finish",
    "follow_cache",
    "is_planned",
    "missing_parts",
    "open_begun",
    "open_cache",
    "part_ranges",
    "plan_in_turn",
    "read_plan",
    "read_scratch",
    "read_shared",
    "shared_faults",
    "store_part",
    "write_plan",
    "write_scratch",
]
