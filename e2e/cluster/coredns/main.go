// CoreDNS with only what a test cluster's DNS needs: a full build takes minutes more.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	// The order in which plugins are asked, as in CoreDNS' own plugin.cfg.
	dnsserver.Directives = []string{"reload", "health", "ready", "errors", "kubernetes"}
	coremain.Run()
}
