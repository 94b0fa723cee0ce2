package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match and verdict are said twice, side by side: in the words of nft, and in
// the expressions that nft makes of them.
type match struct {
	text  string
	exprs []expr.Any
}

type verdict struct {
	text  string
	exprs []expr.Any
}

// reg is the register that every expression of a rule goes through.
const reg = unix.NFT_REG_1

// loopbackIndex is the index of lo in every network namespace.
const loopbackIndex = 1

func leave() verdict {
	return verdict{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}
}

func redirectTo(port uint16) verdict {
	return verdict{fmt.Sprintf("redirect to :%d", port), []expr.Any{
		&expr.Immediate{Register: reg, Data: bigEndian(port)},
		&expr.Redir{RegisterProtoMin: reg, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}}
}

func zone(n uint16) verdict {
	return verdict{fmt.Sprintf("ct zone set %d", n), []expr.Any{
		&expr.Immediate{Register: reg, Data: binaryutil.NativeEndian.PutUint16(n)},
		&expr.Ct{Register: reg, Key: expr.CtKeyZONE, SourceRegister: true},
	}}
}

func skuid(first, last uint32) match {
	load := &expr.Meta{Key: expr.MetaKeySKUID, Register: reg}
	if first == last {
		return match{fmt.Sprintf("meta skuid %d", first), []expr.Any{load, equal(binaryutil.NativeEndian.PutUint32(first))}}
	}
	return match{fmt.Sprintf("meta skuid %d-%d", first, last), []expr.Any{
		load,
		// Ranges are compared byte by byte.
		&expr.Byteorder{SourceRegister: reg, DestRegister: reg, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpGte, Register: reg, Data: binaryutil.BigEndian.PutUint32(first)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: reg, Data: binaryutil.BigEndian.PutUint32(last)},
	}}
}

func skgid(id uint32) match {
	return match{fmt.Sprintf("meta skgid %d", id), []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKGID, Register: reg},
		equal(binaryutil.NativeEndian.PutUint32(id)),
	}}
}

func outLoopback() match {
	return match{`oif "lo"`, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIF, Register: reg},
		equal(binaryutil.NativeEndian.PutUint32(loopbackIndex)),
	}}
}

func priority(n uint32) match {
	return match{fmt.Sprintf("meta priority 0:%d", n), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: reg},
		equal(binaryutil.NativeEndian.PutUint32(n)),
	}}
}

func inLoopback() match {
	return match{`iif "lo"`, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: reg},
		equal(binaryutil.NativeEndian.PutUint32(loopbackIndex)),
	}}
}

func daddrLocal() match { return addrType("", expr.CmpOpEq) }

func daddrNotLocal() match { return addrType("!= ", expr.CmpOpNeq) }

func addrType(word string, op expr.CmpOp) match {
	return match{"fib daddr type " + word + "local", []expr.Any{
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}}
}

func family(f Family) match {
	number := byte(unix.NFPROTO_IPV4)
	if f == IPv6 {
		number = unix.NFPROTO_IPV6
	}
	return match{"meta nfproto " + string(f), []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equal([]byte{number})}}
}

func tcp() match { return match{"meta l4proto tcp", protocol(unix.IPPROTO_TCP)} }

func tcpTo(p Ports) match { return toPort("tcp dport", unix.IPPROTO_TCP, 2, p) }

func udpTo(port uint16) match { return toPort("udp dport", unix.IPPROTO_UDP, 2, Ports{port, port}) }

func udpFrom(port uint16) match { return toPort("udp sport", unix.IPPROTO_UDP, 0, Ports{port, port}) }

func protocol(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal([]byte{number})}
}

func toPort(words string, number byte, offset uint32, p Ports) match {
	exprs := append(protocol(number), &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2})
	if p.First == p.Last {
		exprs = append(exprs, equal(bigEndian(p.First)))
	} else {
		exprs = append(exprs,
			&expr.Cmp{Op: expr.CmpOpGte, Register: reg, Data: bigEndian(p.First)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: reg, Data: bigEndian(p.Last)})
	}
	return match{fmt.Sprintf("%s %s", words, p), exprs}
}

func daddr(p netip.Prefix) match { return address("daddr", 16, 24, p) }

func saddr(p netip.Prefix) match { return address("saddr", 12, 8, p) }

// address compares the address at offset v4 or v6 of the network header.
func address(word string, v4, v6 uint32, p netip.Prefix) match {
	p = p.Masked()
	f, name, offset := IPv4, "ip", v4
	if p.Addr().Is6() {
		f, name, offset = IPv6, "ip6", v6
	}
	exprs := family(f).exprs
	if p.Bits() == 0 {
		return match{family(f).text, exprs}
	}
	bytes := uint32(p.Addr().BitLen() / 8)
	exprs = append(exprs, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: bytes})
	text := p.Addr().String()
	if !p.IsSingleIP() {
		mask := make([]byte, bytes)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		exprs = append(exprs, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: bytes, Mask: mask, Xor: make([]byte, bytes)})
		text = p.String()
	}
	return match{fmt.Sprintf("%s %s %s", name, word, text), append(exprs, equal(p.Addr().AsSlice()))}
}

func equal(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }

func bigEndian(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }
