"""`select.per_class` in rounds: which prompts are drawn for a class, and how many images of each are kept at most.

A class has a row of places, each with one of its prompts in turn. The first round has as many places as images are to
be kept; a later one as many as are lacking after it, each with twice the images of the round before. Of a place no more
are kept than its share, so that no shard needs to know of another one, and no class gets more than was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from promptmill.schemas.job import Job
from promptmill.schemas.plan import Place, Segment

GROWTH = 2
"""Times the images that a place has in the round before: a filter that lets a third pass fills 99.8 % of places in four
rounds (1, 2, 4 and 8 images), and a class that nothing passes costs 15 images a place."""


def images_of(job: Job, round_number: int) -> int:
    """Of each place of a round, which are counted from 1."""
    return int(job.generation.images_per_prompt * GROWTH ** (round_number - 1))


def share_of(job: Job, round_number: int) -> int:
    """How many images of a place may be kept."""
    images = images_of(job, round_number)
    keep = job.select.keep if job.select is not None else None
    return images if keep is None else min(keep, images)


def places_of(job: Job, round_number: int, lacking: int) -> int:
    return -(-lacking // share_of(job, round_number))


def round_segment(
    job: Job, round_number: int, lacking: Mapping[int, int], first_shard: int, variants: int, variant: int | None = None
) -> Segment:
    """`lacking` is how many images each class still needs, of each variant or of the one."""
    places = sum(places_of(job, round_number, number) for number in lacking.values())
    size = places_per_shard(job, round_number)
    shards = max(1, -(-places // size)) * (variants if variant is None else 1)
    told = tuple(sorted(lacking.items()))
    return Segment("round", (), places, first_shard, shards, variant, round=round_number, lacking=told)


def places_per_shard(job: Job, round_number: int) -> int:
    return max(1, job.output.images_per_shard // images_of(job, round_number))


def places(job: Job, segment: Segment, before: Sequence[Segment], prompts: Sequence[int]) -> Iterator[Place]:
    """Of a round in order; `before` are the rounds before it of its variant, `prompts` how many each class has."""
    lacked = [(dict(each.lacking), each.round) for each in before]
    for label, lacking in segment.lacking:
        count, images = places_of(job, segment.round, lacking), images_of(job, segment.round)
        share, many = share_of(job, segment.round), prompts[label]
        told = [(places_of(job, number, those.get(label, 0)), number) for those, number in lacked]
        offset = sum(number for number, _ in told)
        for i in range(count):
            prompt = (offset + i) % many
            first = i // many * images
            begins = 0
            for number, round_number in told:
                first += hits(begins, number, many, prompt) * images_of(job, round_number)
                begins += number
            yield Place(label, prompt, first, images, min(share, lacking - i * share))


def hits(begins: int, number: int, many: int, prompt: int) -> int:
    """How often `number` places from the place `begins` on come to a prompt, of which there are so `many` in turn."""
    return max(0, -(-(number - (prompt - begins) % many) // many))
