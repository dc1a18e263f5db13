"""librdkafka's own mock cluster, which runs everywhere: brokers in this process that fail when they are told to."""

import contextlib
import ctypes
from pathlib import Path

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

PRODUCE = 0
"""The number of the request in Kafka's protocol."""


def _library():
    """The librdkafka that confluent-kafka uses, for what its Python has no names for."""
    beside = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = sorted(beside.glob("librdkafka*"))
    library = ctypes.CDLL(str(found[0]) if found else "librdkafka.so.1")
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class MockCluster:
    """Three brokers. They know no settings of topics, and no limits of theirs."""

    def __init__(self):
        self._library = _library()
        configuration = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(configuration, b"log_level", b"0", None, 0)
        self._client = ctypes.c_void_p(self._library.rd_kafka_new(0, configuration, None, 0))
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, 3))
        # A group's first member is not kept waiting for others, which it would be for three seconds.
        with contextlib.suppress(AttributeError):  # before librdkafka 2.3
            self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, ctypes.c_int32(0))
        self.bootstrap = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def create_topic(self, name, partitions=6, replicas=3):
        """A topic; its name."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, replicas)
        return name

    def produce_named(self, topic, name, value):
        """A message in partition 0 with a header of any name; confluent-kafka's producer takes text only."""
        vt_end, vt_topic, vt_partition, vt_value, vt_header = 0, 1, 3, 4, 9
        configuration = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        self._library.rd_kafka_conf_set(configuration, b"bootstrap.servers", self.bootstrap.encode(), None, 0)
        producer = ctypes.c_void_p(self._library.rd_kafka_new(0, configuration, None, 0))
        assert not self._library.rd_kafka_producev(
            *(producer, ctypes.c_int(vt_topic), topic.encode(), ctypes.c_int(vt_partition), ctypes.c_int32(0)),
            *(ctypes.c_int(vt_value), value, ctypes.c_size_t(len(value))),
            *(ctypes.c_int(vt_header), name, b"1", ctypes.c_ssize_t(1), ctypes.c_int(vt_end)),
        )
        assert not self._library.rd_kafka_flush(producer, 10_000)
        self._library.rd_kafka_destroy(producer)

    def fail(self, *errors, request=PRODUCE):
        """The next requests of that kind get these errors (numbers of KafkaError), one each."""
        numbers = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), numbers
        )

    def lose(self, *brokers):
        """They refuse connections, and drop those that they have."""
        for broker in brokers or (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def restore(self, *brokers):
        """They are back."""
        for broker in brokers or (1, 2, 3):
            self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def close(self):
        """Its ports are free again. What is left of its client goes with the process."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)


def read_topic(bootstrap, topic, *, timeout=60.0):
    """Every message of a topic, partition by partition in order, by a consumer that knows nothing of us."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "reader", "log_level": 0}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest", "enable.partition.eof": True})
    try:
        partitions = sorted(consumer.list_topics(topic, timeout=timeout).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        messages, ended = [], set()
        while len(ended) < len(partitions):
            message = consumer.poll(timeout)
            assert message is not None, f"no message and no end within {timeout} s"
            if message.error() is None:
                messages.append(message)
            elif message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                ended.add(message.partition())
        return sorted(messages, key=lambda message: (message.partition(), message.offset()))
    finally:
        consumer.close()
