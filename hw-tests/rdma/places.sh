# Makes the places in which checks run inside the virtual machine, on Soft-RoCE.
#
# one    both ends on one address of a dummy interface
# two    two hosts: the server's end is in network namespace `far`, joined by a veth pair
# lossy  the same, and each direction loses packets
set -e

ip link set lo up
ip link add rd0 type dummy
ip addr add 10.8.0.1/24 dev rd0
ip link set rd0 up
rdma link add rxe_one type rxe netdev rd0

mkdir -p /run/netns
ip netns add far
ip link add v0 type veth peer name v1 netns far
ip addr add 10.9.0.1/24 dev v0
ip link set v0 up
ip netns exec far ip link set lo up
ip netns exec far ip addr add 10.9.0.2/24 dev v1
ip netns exec far ip link set v1 up
# Each in its own namespace, or the connection manager does not find it.
rdma link add rxe_near type rxe netdev v0
ip netns exec far rdma link add rxe_far type rxe netdev v1
