"""rclpy and nats-py: a topic's bytes go on to NATS as they came. Arguments: topic, depth, URL, subject."""

import asyncio
import sys
import threading

import nats
import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import LaserScan


async def forward(topic, depth, url, subject):
    loop = asyncio.get_running_loop()
    connection = await nats.connect(url)
    rclpy.init()
    node = rclpy.create_node(topic.strip("/").replace("/", "_"))

    def take(scan):
        asyncio.run_coroutine_threadsafe(connection.publish(subject, scan), loop)

    node.create_subscription(LaserScan, topic, take, QoSProfile(depth=int(depth)), raw=True)
    threading.Thread(target=rclpy.spin, args=[node], daemon=True).start()
    print("{}", flush=True)
    await asyncio.Event().wait()


asyncio.run(forward(*sys.argv[1:]))
