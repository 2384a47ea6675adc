"""How well this machine's cost table predicts the time of cut models, and how near tickets come to latency targets.

The table adds up what each layer costs by what it keeps (`lab/cost_table.py`). Random tickets of the default encoder
are predicted with it and measured, in turns with the dense model; the error of the prediction is printed, and what the
number of FLOPs would have predicted. With --targets, tickets are drawn for random targets of latency instead, from
random scores, as `find --target latency=...` draws them; the error is that of the measured time beside the target.
Targets begin where the smallest ticket of --structures is, if that takes more than 0.4 of the dense model's time.
Random weights; the machine should do nothing else.
"""

import argparse
import copy
from collections.abc import Mapping

import numpy as np
from figures import random_scores, random_ticket

from supertickets.anatomy.cost import forward_flops, units
from supertickets.lab.cost_table import measure_table, random_model
from supertickets.lab.forward import prepared
from supertickets.lab.latency import seconds_of
from supertickets.lab.measured import Batch, Conditions
from supertickets.models import find_model
from supertickets.surgery.cut import cut
from supertickets.tickets import Ticket
from supertickets.tickets.kinds import Structure, Units
from supertickets.tickets.knapsack import Cap, draw_under
from supertickets.tickets.prices import Prices


def smallest(prices: Prices, of: Mapping[Structure, Units]) -> float:
    """Return what the ticket costs that costs the least of all that may be drawn."""
    rows = (prices.by[kind][:, unit.least * unit.one_stays :: unit.least] for kind, unit in of.items())
    return prices.fixed + sum(float(row.min(axis=1).sum()) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--structures", default="heads,neurons")
    parser.add_argument("--tickets", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--targets", action="store_true", help="draw tickets for random targets, to 0.95 of dense")
    parser.add_argument("--smallest", action="store_true", help="two tickets, one pass each of a short text")
    options = parser.parse_args()
    if options.smallest:
        options.tickets, options.repeats, options.batch_size, options.length = 2, 1, 1, 8
    base, kinds = find_model(options.model), tuple(options.structures.split(","))
    batch = Batch(batch_size=options.batch_size, length=options.length)
    conditions = Conditions(threads=options.threads, precision=options.precision, device=options.device)
    table = measure_table(base, kinds, batch, conditions, options.repeats)
    prices, shape = table.prices(base.shape), base.shape
    full, rng = Ticket.full(*shape.of_tickets), np.random.default_rng(0)
    dense = prepared(random_model(base), conditions.device)
    whole = forward_flops(shape, full, batch.batch_size, batch.length)
    print(f"dense model: {1000 * table.seconds.median:.2f} ms; {table.about['device_name']}")
    goal = "target" if options.targets else "level "
    print(f"{goal} measured  by table  by FLOPs  (share of the dense model's time)")
    least = max(0.4, 1.01 * smallest(prices, units(shape, kinds)) / prices.of(full))
    errors = {"table": [], "FLOPs": []} | ({"target": []} if options.targets else {})
    for number in range(options.tickets):
        if options.targets:
            asked = float(rng.uniform(least, max(least, 0.95)))
            cap = Cap(f"latency={asked:.3f}", prices, asked * prices.of(full))
            ticket = draw_under(random_scores(shape, rng), [cap], shape.of_tickets, units(shape, kinds)).ticket
        else:
            asked = float(rng.uniform(0.1, 0.9))
            ticket = random_ticket(shape, asked, number, kinds)
        models = {"dense": dense, "cut": cut(copy.deepcopy(dense), ticket)}
        times = seconds_of(models, batch, conditions, options.repeats)
        measured = float(np.median(times["cut"] / times["dense"]))
        flops = forward_flops(shape, ticket, batch.batch_size, batch.length) / whole
        predicted = {"table": prices.of(ticket) / prices.of(full), "FLOPs": flops}
        for name, share in predicted.items():
            errors[name].append(100 * abs(share / measured - 1))
        if options.targets:
            errors["target"].append(100 * abs(measured / asked - 1))
        print(f"{asked:5.2f}  {measured:8.3f}  {predicted['table']:8.3f}  {predicted['FLOPs']:8.3f}")
    for name, percent in errors.items():
        print(f"error by {name}: median {np.median(percent):.1f} %, worst {max(percent):.1f} %")


if __name__ == "__main__":
    main()
