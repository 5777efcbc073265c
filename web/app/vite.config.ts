import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';
import { VitePWA } from 'vite-plugin-pwa';
import { pageConfig } from '../shared/vite.ts';

export default defineConfig(
  pageConfig('', [
    react(),
    VitePWA({
      registerType: 'prompt',
      // `src/pwa.ts` registers it: an inline script would be refused by the page's content security policy.
      injectRegister: false,
      manifest: {
        name: 'haikuq',
        short_name: 'haikuq',
        description: 'Small language models in this browser: private, and offline after the first visit',
        start_url: './',
        scope: './',
        display: 'standalone',
        theme_color: '#28518c',
        background_color: '#fbfaf6',
        icons: [
          { src: 'icon.svg', sizes: 'any', type: 'image/svg+xml' },
          { src: 'icon-192.png', sizes: '192x192', type: 'image/png' },
          { src: 'icon-512.png', sizes: '512x512', type: 'image/png' },
          { src: 'icon-maskable-512.png', sizes: '512x512', type: 'image/png', purpose: 'maskable' },
        ],
      },
      workbox: {
        globPatterns: ['**/*.{js,css,html,svg,png,wasm}'],
        // The benchmark and validation pages are not part of the app; they may be there from an earlier build.
        globIgnores: ['bench/**', 'validate/**'],
        maximumFileSizeToCacheInBytes: 16 * 1024 * 1024,
        inlineWorkboxRuntime: true,
        cleanupOutdatedCaches: true,
        // The start page is in the precache and answers for `./` with any query. No other page is the app's.
        navigateFallback: null,
        ignoreURLParametersMatching: [/./],
        // Weights are kept by the package store, which checks their hashes; only the list of packages is cached here.
        runtimeCaching: [
          {
            urlPattern: ({ url, sameOrigin }) => sameOrigin && url.pathname.endsWith('/packages/index.json'),
            handler: 'NetworkFirst',
            options: { cacheName: 'package-index', networkTimeoutSeconds: 5 },
          },
        ],
      },
    }),
  ]),
);
