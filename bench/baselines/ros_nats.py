"""rclpy and nats-py: a topic's bytes go on to NATS as they came. Arguments: topic, depth, URL, subject; a file of
JSON with user and pass, where the server asks for them."""

import asyncio
import json
import sys
import threading

import nats
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import LaserScan


def login(file):
    with open(file) as opened:
        credentials = json.load(opened)
    return {"user": credentials["user"], "password": credentials["pass"]}


async def forward(topic, depth, url, subject, file=None):
    loop = asyncio.get_running_loop()
    connection = await nats.connect(url, **(login(file) if file else {}))
    rclpy.init()
    node = rclpy.create_node(topic.strip("/").replace("/", "_"))

    def take(scan):
        asyncio.run_coroutine_threadsafe(connection.publish(subject, scan), loop)

    node.create_subscription(LaserScan, topic, take, QoSProfile(depth=int(depth)), raw=True)
    threading.Thread(target=rclpy.spin, args=[node], daemon=True).start()
    print("{}", flush=True)
    await asyncio.Event().wait()


asyncio.run(forward(*sys.argv[1:]))
