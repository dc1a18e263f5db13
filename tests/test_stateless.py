"""What a receiver promises whose sink knows no marks: the shipper alone says where its stream goes on."""

import asyncio
import json
from collections import defaultdict

from proxy import Proxy
from test_delivery import KeepingSink, Numbers, at_once, next_message, receiver, shipper
from waiting import eventually

from logbale.messages import Hello, encode_message
from logbale.protocol import Algorithm
from logbale.session import batch_crc, encode_batch

__all__ = ["at_once"]  # a fixture that holds here too


class ForgetfulSink(KeepingSink):
    """Knows no marks, as the one for Kafka."""

    def mark(self, stream):
        return None

    def in_order(self):
        """The entries as an archiver would store them: of each stream the next sequence, everything else dropped."""
        marks, numbers = defaultdict(int), []
        for item in self.items:
            if item.sequence == max(marks[item.stream] + 1, item.base):
                marks[item.stream] = item.sequence
                numbers += [json.loads(line)["n"] for line in item.lines().splitlines()]
        return numbers


def test_where_nobody_knows_the_mark_the_shipper_says_where_to_begin(run):
    """`welcome.last` is null, everything unacknowledged comes again, and acknowledgements go on behind that."""

    async def scenario():
        async with receiver(ForgetfulSink()) as server:
            for base in (7, 9):
                reader, writer = await asyncio.open_connection(*server.address)
                writer.write(encode_message(Hello(2, "web-1", base)))
                welcome = await next_message(reader)
                assert (welcome["last"], welcome.get("last_crc", 0), welcome.get("rejects", [])) == (None, 0, [])
                raw = b'{"n":1}\n'
                for sequence in (base, base + 1, base + 2):
                    crc = batch_crc(sequence, raw)
                    writer.write(encode_batch(sequence, len(raw), crc, raw, Algorithm.NONE))
                while (message := await next_message(reader)).get("last", 0) < base + 2:
                    assert message["type"] == "ack"
                writer.transport.abort()
            items = server.sink.items
            assert [item.sequence for item in items] == [7, 8, 9, 9, 10, 11]
            assert (items[0].base, items[3].base) == (7, 9)
            assert all(item.base <= item.sequence for item in items)

    run(scenario)


def test_the_base_moves_with_what_is_stored(run):
    """Behind a hole in what an archiver reads, the next batch says that all before it was stored."""

    async def scenario():
        async with receiver(ForgetfulSink()) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(encode_message(Hello(2, "web-1", 7)))
            await next_message(reader)
            raw = b'{"n":1}\n'
            for sequence in (7, 8, 9):
                writer.write(encode_batch(sequence, len(raw), batch_crc(sequence, raw), raw, Algorithm.NONE))
                while (await next_message(reader)).get("last") != sequence:
                    pass
            writer.transport.abort()
            assert [(item.sequence, item.base) for item in server.sink.items] == [(7, 7), (8, 8), (9, 9)]

    run(scenario)


def test_a_cut_connection_costs_duplicates_in_kafka_and_no_entry(run):
    """Whatever was stored and not acknowledged comes twice; who takes each stream's next sequence has each once."""

    async def scenario():
        plans = [{"cut": ("down", bytes_)} for bytes_ in range(240, 440, 10)]
        async with receiver(ForgetfulSink()) as server, Proxy(server.address[1], plans) as proxy:
            report = await shipper(proxy.port, Numbers(2000)).run()
            assert report.delivered
            assert proxy.bites > 0
            assert server.sink.in_order() == list(range(2000))
            sequences = [item.sequence for item in server.sink.items]
            assert len(sequences) > len(set(sequences))

    run(scenario)


def test_a_takeover_waits_for_what_the_older_connection_brought(run):
    """The order of a stream in its partition is that of its sequences, connection after connection."""

    async def scenario():
        async with receiver(ForgetfulSink()) as server:
            server.sink.open.clear()
            raw = b'{"n":1}\n'
            older_reader, older = await asyncio.open_connection(*server.address)
            older.write(encode_message(Hello(2, "web-1", 1)))
            await next_message(older_reader)
            older.write(encode_batch(1, len(raw), batch_crc(1, raw), raw, Algorithm.NONE))
            await eventually(lambda: server.metrics.pending_entries == 1)
            reader, newer = await asyncio.open_connection(*server.address)
            newer.write(encode_message(Hello(2, "web-1", 1)))
            welcome = asyncio.ensure_future(next_message(reader))
            await asyncio.sleep(0.05)
            assert not welcome.done()
            server.sink.open.set()
            assert (await welcome)["last"] is None
            older.transport.abort()
            newer.transport.abort()

    run(scenario)
