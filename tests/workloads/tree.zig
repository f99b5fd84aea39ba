//! Trees that grow and are torn down by recursion: stacks of all depths, from code that Zig compiled.
const std = @import("std");

extern fn malloc(size: usize) ?*anyopaque;
extern fn free(block: ?*anyopaque) void;

const Node = struct { key: u64, left: ?*Node, right: ?*Node };

fn make(key: u64) ?*Node {
    const node: *Node = @ptrCast(@alignCast(malloc(@sizeOf(Node)) orelse return null));
    node.* = .{ .key = key, .left = null, .right = null };
    return node;
}

fn insert(tree: ?*Node, key: u64) ?*Node {
    const node = tree orelse return make(key);
    if (key < node.key) {
        node.left = insert(node.left, key);
    } else {
        node.right = insert(node.right, key);
    }
    return node;
}

fn drop(tree: ?*Node) void {
    const node = tree orelse return;
    drop(node.left);
    drop(node.right);
    free(node);
}

fn work(seed: u64) void {
    var state = seed;
    var round: usize = 0;
    while (round < 20) : (round += 1) {
        var tree: ?*Node = null;
        var count: usize = 0;
        while (count < 3000) : (count += 1) {
            state = state *% 6364136223846793005 +% 1442695040888963407;
            tree = insert(tree, state >> 33);
        }
        drop(tree);
    }
}

pub fn main() !void {
    const other = try std.Thread.spawn(.{}, work, .{7});
    work(1);
    other.join();
}
