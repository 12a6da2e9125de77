// Kubebox is a whole Kubernetes in one program: each part is chosen by the name that the program is called by, so a
// folder of symbolic links to one file is a cluster's worth of commands, and one `go build` links what they share once.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	_ "github.com/coredns/coredns/core/plugin"
	"github.com/coredns/coredns/coremain"
	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	helm "helm.sh/helm/v4/pkg/cmd"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// parts maps each name to what runs under it; the value is the exit code.
var parts = map[string]func(args []string) int{
	"coredns":                 func([]string) int { coremain.Run(); return 0 },
	"etcd":                    func([]string) int { etcdmain.Main(os.Args); return 0 },
	"gpu-device-plugin":       gpuDevicePlugin,
	"helm":                    runHelm,
	"kube-apiserver":          component(apiserver.NewAPIServerCommand),
	"kube-controller-manager": component(controllers.NewControllerManagerCommand),
	"kube-proxy":              component(proxy.NewProxyCommand),
	"kube-scheduler":          component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":                 component(func() *cobra.Command { return kubectl.NewDefaultKubectlCommand() }),
	"kubelet":                 component(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"registry":                runRegistry,
}

func main() {
	part, known := parts[filepath.Base(os.Args[0])]
	if !known {
		names := strings.Join(slices.Sorted(maps.Keys(parts)), "\n")
		// `kubebox` alone lists its parts, one a line: the lab makes its links from this.
		fmt.Println(names)
		return
	}
	os.Exit(part(os.Args[1:]))
}

func component(command func() *cobra.Command) func([]string) int {
	return func([]string) int { return cli.Run(command()) }
}

func runHelm(args []string) int {
	// Server-side apply records this name; by default Helm would take the program's own.
	kube.ManagedFieldsManager = "helm"
	command, err := helm.NewRootCmd(os.Stdout, args, helm.SetupLogging)
	if err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		return 1
	}
	if command.Execute() != nil {
		return 1
	}
	return 0
}

func runRegistry(args []string) int {
	registry.RootCmd.SetArgs(args)
	if registry.RootCmd.Execute() != nil {
		return 1
	}
	return 0
}
