"""A simulated robot: it drives where /cmd_vel sends it and publishes what robots publish. Usage: robot.py [NAMESPACE]

| topic                     | type                         | Hz | quality     |
| odom                      | nav_msgs/Odometry            | 20 | reliable    |
| scan                      | sensor_msgs/LaserScan        | 10 | best effort |
| battery_state             | sensor_msgs/BatteryState     |  1 | reliable    |
| /diagnostics              | diagnostic_msgs/DiagnosticArray | 1 | reliable  |
| camera/image/compressed   | sensor_msgs/CompressedImage  |  5 | best effort |
| robot_description         | std_msgs/String              | once, transient local |
| numbers                   | std_msgs/UInt64              | when told, reliable |

It subscribes cmd_vel (geometry_msgs/Twist) and serves reset_odometry (std_srvs/Trigger). Names are relative, so that
the namespace goes before them. Rates and the size of images (kilobytes) come from ROBOT_<NAME>_HZ and ROBOT_CAMERA_KB.
Its clock is the machine's; where it is follows from its commands alone.
"""

import array
import math
import os
import random
import struct
import sys
import zlib

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import BatteryState, CompressedImage, LaserScan
from std_msgs.msg import String, UInt64
from std_srvs.srv import Trigger

import lines
import nodes

RELIABLE = {"reliability": "reliable", "depth": 10}
SENSOR = {"reliability": "best_effort", "depth": 5}
# A subscriber that stands still for a while must not miss one: so many wait for it.
NUMBERS = {"reliability": "reliable", "depth": 2000}
BEAMS = 360
ROOM = (10.0, 6.0)


def rate(name, default):
    return float(os.environ.get(f"ROBOT_{name}_HZ", default))


def beam(x, y, angle):
    """Metres from there to the walls of an empty room whose middle is the origin."""
    dx, dy = math.cos(angle), math.sin(angle)
    distances = []
    for position, direction, size in ((x, dx, ROOM[0]), (y, dy, ROOM[1])):
        if abs(direction) > 1e-9:
            wall = size / 2 if direction > 0 else -size / 2
            distances.append((wall - position) / direction)
    return max(0.0, min(distances))


def png(width, height, pixels):
    """A greyscale picture; it is not made smaller, so that its size is what was asked for."""
    rows = b"".join(b"\0" + pixels[row * width : (row + 1) * width] for row in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


class Robot:
    def __init__(self, node):
        self.node = node
        self.x = self.y = self.heading = 0.0
        self.speed = self.turn = 0.0
        self.charge = 1.0
        self.frames = 0
        self.numbers_published = 0
        self.odom = node.create_publisher(Odometry, "odom", nodes.qos(RELIABLE))
        self.scan = node.create_publisher(LaserScan, "scan", nodes.qos(SENSOR))
        self.battery = node.create_publisher(BatteryState, "battery_state", nodes.qos(RELIABLE))
        self.diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", nodes.qos(RELIABLE))
        self.camera = node.create_publisher(CompressedImage, "camera/image/compressed", nodes.qos(SENSOR))
        self.numbers = node.create_publisher(UInt64, "numbers", nodes.qos(NUMBERS))
        self.description = node.create_publisher(
            String, "robot_description", nodes.qos({"durability": "transient_local", "depth": 1})
        )
        self.description.publish(String(data='<robot name="simulated"><link name="base_link"/></robot>'))
        node.create_subscription(Twist, "cmd_vel", self.driven, nodes.qos(RELIABLE))
        node.create_service(Trigger, "reset_odometry", self.reset)
        self.width = 320
        self.height = max(1, int(float(os.environ.get("ROBOT_CAMERA_KB", 20)) * 1024) // (self.width + 1))
        self.noise = random.Random(0).randbytes(self.width * (self.height + 256))
        self.angles = [index * 2 * math.pi / BEAMS for index in range(BEAMS)]
        self.odom_hz = rate("ODOM", 20)
        for hz, publish in (
            (self.odom_hz, self.publish_odom),
            (rate("SCAN", 10), self.publish_scan),
            (rate("BATTERY", 1), self.publish_battery),
            (rate("DIAGNOSTICS", 1), self.publish_diagnostics),
            (rate("CAMERA", 5), self.publish_camera),
        ):
            if hz > 0:
                node.create_timer(1 / hz, publish)

    def now(self):
        return self.node.get_clock().now().to_msg()

    def driven(self, twist):
        self.speed, self.turn = twist.linear.x, twist.angular.z
        lines.say({"event": "cmd_vel", "linear": self.speed, "angular": self.turn})

    def reset(self, _request, response):
        self.x = self.y = self.heading = 0.0
        lines.say({"event": "reset"})
        response.success, response.message = True, "odometry is at the origin"
        return response

    def publish_odom(self):
        seconds = 1 / self.odom_hz
        self.heading += self.turn * seconds
        self.x = max(-ROOM[0] / 2, min(ROOM[0] / 2, self.x + self.speed * math.cos(self.heading) * seconds))
        self.y = max(-ROOM[1] / 2, min(ROOM[1] / 2, self.y + self.speed * math.sin(self.heading) * seconds))
        message = Odometry()
        message.header.stamp = self.now()
        message.header.frame_id, message.child_frame_id = "odom", "base_link"
        message.pose.pose.position.x, message.pose.pose.position.y = self.x, self.y
        message.pose.pose.orientation.z = math.sin(self.heading / 2)
        message.pose.pose.orientation.w = math.cos(self.heading / 2)
        message.twist.twist.linear.x, message.twist.twist.angular.z = self.speed, self.turn
        self.odom.publish(message)

    def publish_scan(self):
        message = LaserScan()
        message.header.stamp = self.now()
        message.header.frame_id = "laser"
        message.angle_max = 2 * math.pi
        message.angle_increment = 2 * math.pi / BEAMS
        message.range_min, message.range_max = 0.05, 30.0
        ranges = [beam(self.x, self.y, self.heading + angle) for angle in self.angles]
        message.ranges = array.array("f", ranges)
        message.intensities = array.array("f", [1 / (1 + distance) for distance in ranges])
        self.scan.publish(message)

    def publish_battery(self):
        self.charge = max(0.0, self.charge - 0.0005 - 0.002 * abs(self.speed))
        message = BatteryState()
        message.header.stamp = self.now()
        message.voltage, message.percentage, message.current = 22 + 3 * self.charge, self.charge, -1.5
        # Not measured, which ROS writes so.
        message.temperature = math.nan
        message.power_supply_status = BatteryState.POWER_SUPPLY_STATUS_DISCHARGING
        message.present = True
        self.battery.publish(message)

    def publish_diagnostics(self):
        message = DiagnosticArray()
        message.header.stamp = self.now()
        low = self.charge < 0.2
        message.status = [
            DiagnosticStatus(
                level=DiagnosticStatus.WARN if low else DiagnosticStatus.OK,
                name=f"{self.node.get_namespace().rstrip('/')}/battery",
                message="low" if low else "ok",
                hardware_id="simulated",
                values=[KeyValue(key="charge", value=f"{self.charge:.3f}")],
            )
        ]
        self.diagnostics.publish(message)

    def publish_camera(self):
        # Another part of the same noise each time: no two neighbours are equal.
        begin = (self.frames % 256) * self.width
        self.frames += 1
        message = CompressedImage()
        message.header.stamp = self.now()
        message.header.frame_id, message.format = "camera", "png"
        pixels = self.noise[begin : begin + self.width * self.height]
        message.data = array.array("B", png(self.width, self.height, pixels))
        self.camera.publish(message)


def main():
    rclpy.init()
    node = rclpy.create_node("robot", namespace=sys.argv[1] if len(sys.argv) > 1 else None)
    robot = Robot(node)
    timers = {}

    def publish_number():
        robot.numbers.publish(UInt64(data=robot.numbers_published))
        robot.numbers_published += 1

    def pace(line):
        """{"hz"}: from now on a further number so often, 0: none. Answers with how many were published until now."""
        if "pace" in timers:
            node.destroy_timer(timers.pop("pace"))
        if line["hz"] > 0:
            timers["pace"] = node.create_timer(1 / line["hz"], publish_number)
        return robot.numbers_published

    def numbers(line):
        """{"count", "hz"}: further numbers, one after the last that was published; answers after the last of them."""
        left = line["count"]

        def tick():
            nonlocal left
            publish_number()
            left -= 1
            if left == 0:
                node.destroy_timer(timers.pop(line["id"]))
                lines.say({"id": line["id"], "value": robot.numbers_published})

        timers[line["id"]] = node.create_timer(1 / line["hz"], tick)
        return lines.LATER

    def matched(line):
        """Answers once that many subscriptions have found the numbers."""

        def look():
            if robot.numbers.get_subscription_count() >= line["count"]:
                node.destroy_timer(timers.pop(line["id"]))
                lines.say({"id": line["id"], "value": robot.numbers.get_subscription_count()})

        timers[line["id"]] = node.create_timer(0.01, look)
        return lines.LATER

    def state(_line):
        return {
            "x": robot.x,
            "y": robot.y,
            "heading": robot.heading,
            "charge": robot.charge,
            "frames": robot.frames,
            "numbers": robot.numbers_published,
        }

    nodes.run(node, {"numbers": numbers, "pace": pace, "matched": matched, "state": state})


main()
